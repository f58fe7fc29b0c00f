//! Names as text and as wire.

use crate::names::Name;

#[test]
fn a_name_reads_back_as_it_is_shown() {
    for (text, shown) in [
        ("a.b.", "a.b."),
        ("a.b", "a.b."),
        (".", "."),
        ("A.b", "A.b."),
        (r"a\.b.c", r"a\.b.c."),
        (r"\000x", r"\000x."),
        (r"\\", r"\\."),
    ] {
        let name: Name = text.parse().expect("valid");
        assert_eq!(name.to_string(), shown);
        assert_eq!(shown.parse::<Name>().expect("valid"), name);
    }
    for bad in ["", "..", "a..b", ".a", r"\25", r"\256", r"a\", &"a".repeat(64), &"aaaaaaa.".repeat(32)] {
        assert!(bad.parse::<Name>().is_err(), "{bad:?} was accepted");
    }
    assert!("aaaaaaa.".repeat(31).parse::<Name>().is_ok());
}

#[test]
fn names_differ_in_more_than_case_or_are_equal() {
    let name = |text: &str| text.parse::<Name>().expect("valid");
    assert_eq!(name("WeB.X"), name("web.x"));
    assert_ne!(name("web.x"), name("webx"));
    assert_eq!(name("a.b.c").parent(2), name("c"));
    assert_eq!(name("a.b.c").parent(9), Name::root());
    assert_eq!(name("WeB.X").to_lowercase().octets(), b"\x03web\x01x\x00");
}
