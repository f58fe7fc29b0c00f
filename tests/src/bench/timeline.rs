//! When the agent finished which operation: its own log lines, with the time at which they were written.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The agent's module that logs each operation when it is done.
const WORKER: &str = "privnet::agent::network::apply";

/// The operations since the last time somebody asked.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    marks: Arc<Mutex<Vec<Mark>>>,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    operation: String,
}

/// Listens to the agents of this process from now on.
pub fn install() -> Timeline {
    let timeline = Timeline::default();
    let errors = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(tracing_subscriber::filter::LevelFilter::ERROR);
    tracing_subscriber::registry().with(timeline.clone()).with(errors).init();
    timeline
}

impl Timeline {
    /// How long each kind of operation took since `start`, as far as one can tell from when the one before was done.
    ///
    /// What came before the first one is part of the first.
    pub fn since(&self, start: Instant) -> BTreeMap<String, Duration> {
        let marks = std::mem::take(&mut *self.marks.lock().unwrap_or_else(PoisonError::into_inner));
        let mut times: BTreeMap<String, Duration> = BTreeMap::new();
        let mut before = start;
        for mark in marks.into_iter().filter(|mark| mark.at >= start) {
            *times.entry(mark.operation).or_default() += mark.at - before;
            before = mark.at;
        }
        times
    }
}

impl<S: Subscriber> Layer<S> for Timeline {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == WORKER || *metadata.level() <= Level::WARN
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != WORKER || *event.metadata().level() != Level::DEBUG {
            return;
        }
        let at = Instant::now();
        let mut line = Line::default();
        event.record(&mut line);
        let verb = line.message.split(' ').next().unwrap_or_default();
        let operation = format!("{verb} {}", line.kind);
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(Mark { at, operation });
    }
}

/// What a log line says: its message, and the kind of object that it is about.
#[derive(Default)]
struct Line {
    message: String,
    kind: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "kind" {
            value.clone_into(&mut self.kind);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.message, "{value:?}");
        }
    }
}
