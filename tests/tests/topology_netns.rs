//! Namespaces on the real kernel, as root: made, pinned, found again, entered, removed; strangers survive.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use privnet::netns::{Error, Netns, boot_id};
use privnet_tests::lab::{Ground, SOON, run, wait_until};

#[tokio::test]
async fn a_created_namespace_is_pinned_and_is_the_one_its_closures_run_in() {
    let dir = Dir::new();
    let netns = Netns::create(dir.path(), "netlink-a").expect("create");
    assert_eq!(Netns::identify(&dir.path().join("netlink-a")).expect("identify"), netns.id());
    let inside = netns.run(|| Netns::identify(Path::new("/proc/thread-self/ns/net"))).await.expect("run");
    assert_eq!(inside.expect("identify inside"), netns.id());
    let own = Netns::current().expect("current");
    assert_ne!(own.id(), netns.id());
    assert_eq!(Netns::open(&dir.path().join("netlink-a")).expect("open"), netns);
    assert!(!boot_id().expect("boot id").is_empty());
}

#[test]
fn a_name_that_is_taken_is_refused_and_a_free_one_is_not() {
    let dir = Dir::new();
    let first = Netns::create(dir.path(), "netlink-a").expect("create");
    assert!(matches!(Netns::create(dir.path(), "netlink-a"), Err(Error::AlreadyExists { .. })));
    assert_eq!(Netns::identify(&dir.path().join("netlink-a")).expect("identify"), first.id());
    Netns::create(dir.path(), "netlink-b").expect("the twin");
}

#[test]
fn a_mount_point_that_a_crash_left_behind_is_listed_as_such_and_used_again() {
    let dir = Dir::new();
    let kept = Netns::create(dir.path(), "netlink-kept").expect("create");
    fs::write(dir.path().join("netlink-stale"), "").expect("leave a mount point behind");
    fs::write(dir.path().join("notes.txt"), "a stranger's").expect("a stranger's file");
    let pins = Netns::list(dir.path()).expect("list");
    let seen: Vec<_> = pins.iter().map(|pin| (pin.name.as_str(), pin.id)).collect();
    assert_eq!(seen, [("netlink-kept", Some(kept.id())), ("netlink-stale", None)]);

    let again = Netns::create(dir.path(), "netlink-stale").expect("create over it");
    assert_eq!(Netns::identify(&dir.path().join("netlink-stale")).expect("identify"), again.id());
    assert!(matches!(Netns::create(dir.path(), "notes.txt"), Err(Error::AlreadyExists { .. })));
    assert!(matches!(Netns::remove(dir.path(), "notes.txt"), Err(Error::NotANamespace { .. })));
    assert_eq!(fs::read_to_string(dir.path().join("notes.txt")).expect("still there"), "a stranger's");
}

#[test]
fn removing_twice_is_the_same_as_removing_once() {
    let dir = Dir::new();
    drop(Netns::create(dir.path(), "netlink-a").expect("create"));
    for _ in 0..2 {
        Netns::remove(dir.path(), "netlink-a").expect("remove");
        assert_eq!(Netns::list(dir.path()).expect("list"), []);
    }
    Netns::remove(Path::new("/run/netlink-no-such-directory"), "x").expect("no directory, no pin");
    assert_eq!(Netns::list(Path::new("/run/netlink-no-such-directory")).expect("list"), []);
}

#[test]
fn only_a_network_namespace_opens() {
    let ground = Ground::join();
    let file = tempfile::NamedTempFile::new().expect("file");
    for (path, what) in [
        (file.path(), "a regular file"),
        (Path::new("/proc/self/ns/mnt"), "a mount namespace"),
        (Path::new("/dev/null"), "a device"),
        (Path::new("/run"), "a directory"),
    ] {
        match Netns::open(path) {
            Err(Error::NotANamespace { found, .. }) => assert!(found.starts_with(what), "{found}"),
            other => panic!("{}: {other:?}", path.display()),
        }
        assert_eq!(Netns::find(path).expect("looked for"), None, "{}", path.display());
    }
    for gone in ["/run/netns/netlink-no-such", "/proc/4194305/ns/net"] {
        assert!(matches!(Netns::open(Path::new(gone)), Err(Error::NotFound { .. })), "{gone}");
        assert_eq!(Netns::find(Path::new(gone)).expect("looked for"), None, "{gone}");
    }
    let own = Netns::open(Path::new("/proc/self/ns/net")).expect("the twin");
    assert_eq!(Netns::find(Path::new("/proc/self/ns/net")).expect("looked for"), Some(own));
    let around = ground.directory().join("around");
    std::os::unix::fs::symlink(&around, &around).expect("a link to itself");
    assert!(
        matches!(Netns::find(&around), Err(Error::Kernel { .. })),
        "what cannot be looked at is not taken for absent"
    );
    assert!(matches!(Netns::create(Path::new("/run"), "../x"), Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn a_panicking_closure_is_an_error_and_the_namespace_goes_on() {
    let ground = Ground::join();
    let [netns] = ground.namespaces();
    match netns.run(|| panic!("on purpose")).await {
        Err::<(), _>(Error::Panicked { message, .. }) => assert_eq!(message, "on purpose"),
        other => panic!("{other:?}"),
    }
    assert_eq!(netns.run(|| 7).await.expect("run"), 7);
    let on_thread = netns.clone();
    let nested = netns.run(move || on_thread.run_blocking(|| 8).expect("nested")).await.expect("run");
    assert_eq!(nested, 8, "a closure that uses its own namespace does not wait for itself");
}

#[test]
fn the_namespace_goes_with_its_last_handle_and_not_before() {
    let ground = Ground::join();
    let [netns] = ground.namespaces();
    let (id, clone) = (netns.id(), netns.clone());
    let has_thread = || {
        let tasks = fs::read_dir("/proc/self/task").expect("tasks").filter_map(Result::ok);
        tasks.map(|task| Netns::identify(&task.path().join("ns/net"))).any(|seen| seen.is_ok_and(|seen| seen == id))
    };
    drop(netns);
    assert!(has_thread(), "a clone holds it");
    drop(clone);
    wait_until("the thread ended", || !has_thread());
}

#[tokio::test]
async fn a_setting_is_written_where_it_differs_and_in_its_namespace_only() {
    let ground = Ground::join();
    let [one, two] = ground.namespaces();
    let key = "net/ipv4/ip_forward";
    one.set_sysctl(key, "0").await.expect("set");
    two.set_sysctl(key, "0").await.expect("set");
    assert!(!one.set_sysctl(key, "0").await.expect("set"), "it did not differ");
    assert!(one.set_sysctl(key, "1").await.expect("set"), "it differed");
    assert_eq!(one.get_sysctl(key).await.expect("get"), "1");
    assert_eq!(two.get_sysctl(key).await.expect("get"), "0");
    let absent = "net/ipv6/conf/netlink-none/disable_ipv6";
    assert!(matches!(one.set_sysctl(absent, "1").await, Err(Error::NotFound { .. })));
    assert!(matches!(one.set_sysctl("kernel/hostname", "x").await, Err(Error::Invalid { .. })));
    let both = [(key, "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];
    assert_eq!(one.set_sysctls(&both).await.expect("set"), 1);
}

#[test]
fn ip_netns_sees_enters_and_deletes_what_was_created_and_the_other_way_round() {
    let ground = Ground::join();
    let dir = Path::new("/run/netns");
    let name = format!("{}both", ground.prefix());
    let netns = Netns::create(dir, &name).expect("create");
    let listed = run("ip netns list");
    assert!(listed.lines().any(|line| line.split(' ').next() == Some(&name)), "{listed}");
    let inside = run(&format!("ip netns exec {name} readlink /proc/self/ns/net"));
    assert_eq!(inside.trim(), netns.id().to_string());
    run(&format!("ip netns delete {name}"));
    Netns::remove(dir, &name).expect("already gone");

    run(&format!("ip netns add {name}"));
    let pins = Netns::list(dir).expect("list");
    assert!(pins.iter().any(|pin| pin.name == name && pin.id.is_some()));
    assert!(matches!(Netns::create(dir, &name), Err(Error::AlreadyExists { .. })));
    Netns::remove(dir, &name).expect("remove");
    assert!(!Netns::list(dir).expect("list").iter().any(|pin| pin.name == name));
}

#[test]
fn many_creators_at_once_share_one_directory_mount() {
    let dir = Dir::new();
    let made: Vec<Netns> = std::thread::scope(|scope| {
        let creators: Vec<_> = (0..8)
            .map(|number| {
                let path = dir.path();
                scope.spawn(move || Netns::create(path, &format!("netlink-{number}")).expect("create"))
            })
            .collect();
        creators.into_iter().map(|creator| creator.join().expect("creator")).collect()
    });
    assert_eq!(Netns::list(dir.path()).expect("list").len(), made.len());
    // A symbolic link beside a pin is none, and a pin whose name is not meant is not found.
    std::os::unix::fs::symlink("netlink-3", dir.path().join("netlink-link")).expect("a link");
    for pin in Netns::list(dir.path()).expect("list") {
        let find = |meant: &dyn Fn(&str) -> bool| {
            Netns::find_pin(dir.path(), pin.id.expect("a namespace"), meant).expect("find")
        };
        assert_eq!(find(&|_| true).as_ref(), Some(&pin.name));
        assert_eq!(find(&|name| name != pin.name), None);
    }
    fs::remove_file(dir.path().join("netlink-link")).expect("the link");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let of_dir = |line: &&str| line.split(' ').nth(4) == dir.path().to_str();
    assert_eq!(mounts.lines().filter(of_dir).count(), 1);
    assert!(matches!(Netns::remove_dir(dir.path()), Err(Error::Busy { .. })));
}

#[test]
fn the_descriptor_of_a_namespace_is_not_inherited() {
    let ground = Ground::join();
    let [netns] = ground.namespaces();
    let fd = format!("/proc/self/fd/{}", netns.fd().as_raw_fd());
    let status = Command::new("test").args(["-e", &fd]).status().expect("test");
    assert!(!status.success(), "the child inherited it");
}

/// A directory of pins that goes with the test, whatever became of it.
struct Dir(Ground);

impl Dir {
    fn new() -> Self {
        Self(Ground::join())
    }

    fn path(&self) -> &Path {
        self.0.directory()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for pin in Netns::list(self.path()).unwrap_or_default() {
            let _ = Netns::remove(self.path(), &pin.name);
        }
        let _ = fs::remove_file(self.path().join("notes.txt"));
        if let Err(error) = Netns::remove_dir(self.path()) {
            assert!(std::thread::panicking(), "left behind: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_number_comes_again_and_a_cookie_does_not() {
    let ground = Ground::join();
    let create = || {
        let [netns] = ground.namespaces();
        netns
    };
    let first = create();
    let (id, cookie) = (first.id(), first.cookie().await.expect("a cookie"));
    assert_eq!(first.cookie().await.expect("a cookie"), cookie, "the twin");
    drop(first);
    // The kernel gives out the lowest number that is free, once the namespace has really gone.
    let start = Instant::now();
    loop {
        let other = create();
        assert_ne!(other.cookie().await.expect("a cookie"), cookie);
        if other.id() == id {
            break;
        }
        assert!(start.elapsed() < SOON, "the number did not come again");
    }
}
