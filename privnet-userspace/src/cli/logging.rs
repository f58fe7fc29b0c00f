//! Logs: to stderr only, never above what was asked for.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

/// Starts logging. `RUST_LOG` chooses what, by levels and modules (`warn,privnet::agent=debug`); without it the agent says
/// `info` and every other verb `warn`. `PRIVNET_LOG=json` writes one JSON object a line. Colours only on a terminal, and never with `NO_COLOR`.
pub fn start(is_service: bool) {
    let default = if is_service { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = asked(std::env::var("RUST_LOG").ok().as_deref(), default);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let is_json = std::env::var_os("PRIVNET_LOG").is_some_and(|value| value == "json");
    let layer = if is_json { layer.json().boxed() } else { layer.boxed() };
    // A second start, as in a test, keeps the first subscriber.
    let _ = registry().with(layer).with(filter).try_init();
}

/// What a variable asks for; without one that can be read, everything of the level `default` and above.
fn asked(variable: Option<&str>, default: LevelFilter) -> Targets {
    let asked = variable.filter(|asked| !asked.is_empty()).and_then(|asked| asked.parse().ok());
    asked.unwrap_or_else(|| Targets::new().with_default(default))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn levels_are_chosen_for_all_and_for_modules_and_what_cannot_be_read_changes_nothing() {
        let is_logged = |variable, target, level| asked(variable, LevelFilter::INFO).would_enable(target, &level);
        for nothing in [None, Some(""), Some("privnet=loud")] {
            assert!(is_logged(nothing, "privnet", Level::INFO), "{nothing:?}");
            assert!(!is_logged(nothing, "privnet", Level::DEBUG), "{nothing:?}");
        }
        let some = Some("warn,privnet::agent=debug");
        assert!(is_logged(some, "privnet::agent::worker", Level::DEBUG));
        assert!(!is_logged(some, "privnet::api", Level::INFO));
        assert!(is_logged(some, "privnet::api", Level::WARN));
        assert!(!is_logged(Some("off"), "privnet", Level::ERROR));
    }
}
