//! The watchdog of systemd (sd_watchdog_enabled(3)). The agent tells it again and again that it lives, as long as its tasks
//! turn. systemd kills an agent that does not, and starts the next one; the members keep their connections meanwhile.

use std::time::Duration;

use super::notify::notify;

/// Tells the watchdog again and again, whatever the agent does: while it starts, it waits. Never ends.
pub async fn tell_while_starting() -> std::convert::Infallible {
    loop {
        next_turn().await;
        tell_unless(None);
    }
}

/// Waits until the watchdog is to be told again; for ever where there is none.
pub async fn next_turn() {
    match interval(|name| std::env::var(name).ok(), std::process::id()) {
        Some(interval) => tokio::time::sleep(interval).await,
        None => std::future::pending().await,
    }
}

/// Tells it that the agent lives, unless a task of the agent does not go on.
pub fn tell_unless(stuck: Option<(&'static str, Duration)>) {
    match stuck {
        None => notify("WATCHDOG=1"),
        Some((task, took)) => {
            tracing::error!(
                task,
                seconds = took.as_secs(),
                "a task of the agent does not go on: systemd is to end the agent"
            );
        }
    }
}

/// How often the watchdog is told: three times within the time that it allows.
fn interval(variable: impl Fn(&str) -> Option<String>, own_id: u32) -> Option<Duration> {
    let is_meant = variable("WATCHDOG_PID").is_none_or(|id| id.parse() == Ok(own_id));
    let allowed = variable("WATCHDOG_USEC")?.parse().ok().filter(|allowed| *allowed > 0 && is_meant)?;
    Some(Duration::from_micros(allowed) / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_of_another_process_and_one_without_a_time_are_not_told() {
        let with = |microseconds: &'static str, id: &'static str| {
            interval(|name| Some(if name == "WATCHDOG_USEC" { microseconds } else { id }.to_owned()), 7)
        };
        assert_eq!(with("30000000", "7"), Some(Duration::from_secs(10)));
        assert_eq!(with("30000000", "8"), None);
        assert_eq!(with("0", "7"), None);
        assert_eq!(with("soon", "7"), None);
        assert_eq!(interval(|_| None, 7), None);
        let without_id = |name: &str| (name == "WATCHDOG_USEC").then(|| "3000000".to_owned());
        assert_eq!(interval(without_id, 7), Some(Duration::from_secs(1)));
    }
}
