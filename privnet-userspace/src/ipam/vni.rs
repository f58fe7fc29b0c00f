//! Which VNI a new network gets.

use std::collections::BTreeSet;

use privnet_ebpf::net::Vni;

/// Picks the first free VNI at or after the one that `draw`, a random number, falls on; nothing when all are taken.
///
/// Random, because a VNI that was free a moment ago may still be known to a host that has not heard of it.
#[must_use]
pub fn free_vni(taken: &BTreeSet<Vni>, draw: u32) -> Option<Vni> {
    let (min, max) = (Vni::MIN.get(), Vni::MAX.get());
    let start = min + draw % (max - min + 1);
    let taken_numbers = || taken.iter().map(|vni| vni.get());
    let above = first_free(start, max, taken_numbers());
    above.or_else(|| first_free(min, start - 1, taken_numbers())).and_then(|number| Vni::new(number).ok())
}

/// The first number of `first..=last` that is not `taken`, which is in ascending order.
fn first_free(first: u32, last: u32, taken: impl Iterator<Item = u32>) -> Option<u32> {
    let mut candidate = first;
    for number in taken.skip_while(|number| *number < first) {
        if number != candidate {
            break;
        }
        candidate += 1;
    }
    (candidate <= last).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni(value: u32) -> Vni {
        Vni::new(value).expect("in range")
    }

    #[test]
    fn a_draw_falls_on_a_vni_and_never_on_zero() {
        let none = BTreeSet::new();
        for (draw, expected) in [(0, 1), (1, 2), (16_777_214, 16_777_215), (16_777_215, 1), (u32::MAX, 256)] {
            assert_eq!(free_vni(&none, draw), Some(vni(expected)), "draw {draw}");
        }
    }

    #[test]
    fn a_taken_vni_is_passed_over_and_the_search_wraps() {
        let taken: BTreeSet<Vni> = [1, 2, 3, 16_777_214, 16_777_215].map(vni).into();
        assert_eq!(free_vni(&taken, 1), Some(vni(4)));
        assert_eq!(free_vni(&taken, 4), Some(vni(5)));
        assert_eq!(free_vni(&taken, 16_777_213), Some(vni(4)));
    }

    #[test]
    fn the_first_free_number_is_found_in_every_set_of_taken_ones() {
        for set in 0u32..1 << 8 {
            let taken: Vec<u32> = (0..8).filter(|bit| set & 1 << bit != 0).collect();
            for first in 0..8 {
                for last in first..8 {
                    let expected = (first..=last).find(|number| !taken.contains(number));
                    assert_eq!(first_free(first, last, taken.iter().copied()), expected, "{taken:?} {first} {last}");
                }
            }
        }
    }
}
