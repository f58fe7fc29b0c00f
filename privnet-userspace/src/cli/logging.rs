//! Logs: to stderr only, never above what was asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` chooses what; without it the agent says `info` and every other verb `warn`.
/// `PRIVNET_LOG=json` writes one JSON object a line. Colours only on a terminal, and never with `NO_COLOR`.
pub fn start(is_service: bool) {
    let default = if is_service { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // A second start, as in a test, keeps the first subscriber.
    let _ = if std::env::var_os("PRIVNET_LOG").is_some_and(|value| value == "json") {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}
