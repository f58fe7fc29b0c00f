//! A process enters namespaces of its own before it becomes a command. Without a harness, which would have threads.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use privnet::netns::{Error, Netns, enter_new_for_exec};

fn main() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: cargo xtask test runs it as root");
    let before = Netns::identify(Path::new("/proc/self/ns/net")).expect("own namespace");
    a_process_with_two_threads_is_refused();
    assert_eq!(Netns::identify(Path::new("/proc/self/ns/net")).expect("own namespace"), before);
    a_process_with_one_thread_has_namespaces_of_its_own(before);
}

fn a_process_with_two_threads_is_refused() {
    let (go, wait) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || wait.recv());
    assert!(matches!(enter_new_for_exec(), Err(Error::NotSingleThreaded { threads: 2 })));
    drop(go);
    other.join().expect("the other thread").expect_err("it was only waiting");
    let end = Instant::now() + Duration::from_secs(5);
    while fs::read_dir("/proc/self/task").expect("tasks").count() > 1 {
        assert!(Instant::now() < end, "waited 5 s until the other thread was gone");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn a_process_with_one_thread_has_namespaces_of_its_own(before: privnet::netns::NetnsId) {
    let (mounts, hostname) = (namespace("mnt"), namespace("uts"));
    enter_new_for_exec().expect("enter");
    assert_ne!(Netns::identify(Path::new("/proc/self/ns/net")).expect("own namespace"), before);
    assert_ne!(namespace("mnt"), mounts);
    assert_ne!(namespace("uts"), hostname);
    let interfaces = fs::read_to_string("/proc/self/net/dev").expect("interfaces");
    assert_eq!(interfaces.lines().skip(2).count(), 1, "lo and nothing else: {interfaces}");
    let shared = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!shared.contains(" shared:"), "a mount made here would show on the host: {shared}");
}

fn namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).expect("namespace").to_string_lossy().into_owned()
}
