//! What the guest's kernel says on its console: is it in trouble?

/// What begins a kernel's report of trouble that no test survives.
const TROUBLE: [&str; 14] = [
    "Kernel panic",
    "BUG: ",
    "Oops: ",
    "general protection fault",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls on CPUs",
    "self-detected stall",
    "blocked for more than",
    "Out of memory: ",
    // With or without the number of the processor behind it, and lockdep's reports.
    "WARNING: ",
    "INFO: trying to register non-static key",
    "UBSAN: ",
    "unregister_netdevice: waiting for",
];

/// The first line of a console's text that reports trouble.
pub fn trouble(text: &str) -> Option<&str> {
    text.lines().find(|line| TROUBLE.iter().any(|trouble| line.contains(trouble))).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found_and_ordinary_lines_are_not() {
        let well = "[    0.1] Linux version 6.12\n[    9.1] wireguard: WireGuard 1.0.0 loaded.\n";
        assert_eq!(trouble(well), None);
        let panic = format!("{well}[    9.9] Kernel panic - not syncing: Attempted to kill init!\n");
        assert_eq!(trouble(&panic), Some("[    9.9] Kernel panic - not syncing: Attempted to kill init!"));
        let stall = "[   99.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n";
        assert!(trouble(stall).is_some());
        assert!(trouble("[ 5.0] WARNING: possible circular locking dependency detected\n").is_some());
        assert!(trouble("[ 5.0] WARNING: CPU: 0 PID: 9 at net/core/dev.c:10 f+0x1/0x2\n").is_some());
        assert!(trouble("[ 1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:1]\n").is_some());
    }
}
