//! What the kernel's verifier says of the programs: that it takes them, and how much work they were.
//!
//! The figure differs from kernel to kernel, and the kernel refuses a program above a million. It is printed, for
//! `cargo xtask vm` to show for each kernel, and may not grow unnoticed.

mod datapath;

use aya::programs::SchedClassifier;
use datapath::*;
use privnet::datapath::Hook;
use privnet_tests::lab::Ground;

/// Instructions that the verifier may look at for one program, over all paths.
const BUDGET: u32 = 20_000;

#[expect(clippy::print_stdout, reason = "the figures")]
#[test]
fn each_program_is_verified_within_the_budget() {
    let ground = Ground::join();
    let network = open(&ground, &spec());
    for hook in Hook::ALL {
        let program = SchedClassifier::from_pin(network.program_pin(hook)).expect("a pinned program");
        let info = program.info().expect("information about it");
        let verified = info.verified_instruction_count().expect("since Linux 5.16");
        let (size, code) = (info.size_translated().unwrap_or(0) / 8, info.size_jitted());
        println!("figure: {}: {verified} instructions verified of {size}, {code} bytes of code", hook.program());
        assert!((1..=BUDGET).contains(&verified), "{}: {verified} of {BUDGET}", hook.program());
    }
    network.unpin().expect("unpinned");
}
