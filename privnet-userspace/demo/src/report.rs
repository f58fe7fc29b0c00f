//! What the demo has to show, for people and for programs.

use std::fmt;
use std::time::Duration;

use privnet::agent::ControlError;
use privnet::cli::args::Format;
use privnet::cli::output;
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::Value;

/// Facts that were measured, in the order in which they are to be read.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    facts: Vec<(&'static str, Value)>,
    not_so: Vec<&'static str>,
}

impl Evidence {
    /// No facts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.facts.push((name, value.into()));
        self
    }

    /// Adds a fact as its text.
    #[must_use]
    pub fn text(self, name: &'static str, value: impl fmt::Display) -> Self {
        self.with(name, value.to_string())
    }

    /// Demands that something holds; when it does not, it is named.
    #[must_use]
    pub fn demand(mut self, what: &'static str, holds: bool) -> Self {
        if !holds {
            self.not_so.push(what);
        }
        self
    }
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.facts {
            map.serialize_entry(name, value)?;
        }
        if !self.not_so.is_empty() {
            map.serialize_entry("not_so", &self.not_so)?;
        }
        map.end()
    }
}

/// What the demo ran on.
#[derive(Clone, Debug, Serialize)]
pub struct World {
    /// `ebpf` or `bridge`.
    pub datapath: String,
    /// `kernel` or `userspace`.
    pub wireguard: String,
}

/// What was left up.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    /// The demo's name.
    pub name: String,
    /// Commands to look around with.
    pub look: Vec<String>,
    /// The command that removes it.
    pub remove: String,
}

#[derive(Debug, Serialize)]
struct Step {
    step: usize,
    title: String,
    ok: bool,
    evidence: Evidence,
}

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    ok: bool,
    #[serde(flatten)]
    world: &'a World,
    steps: &'a [Step],
    duration_ms: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'a Kept>,
}

/// What was shown so far. For people each step is printed when it is done.
pub struct Report {
    format: Format,
    steps: Vec<Step>,
    ok: bool,
}

impl Report {
    /// An empty one.
    #[must_use]
    pub const fn new(format: Format) -> Self {
        Self { format, steps: Vec::new(), ok: true }
    }

    /// Whether everything held.
    #[must_use]
    pub const fn ok(&self) -> bool {
        self.ok
    }

    /// Prints a line for people.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn say(&self, line: &str) -> Result<(), ControlError> {
        if self.format == Format::Table { output::print_text(&format!("{line}\n")) } else { Ok(()) }
    }

    /// Adds a step. One whose evidence could not even be gathered did not hold.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn add(&mut self, title: &str, evidence: anyhow::Result<Evidence>) -> Result<(), ControlError> {
        let evidence = evidence.unwrap_or_else(|error| {
            Evidence::new().text("error", format!("{error:#}")).demand("the evidence could be gathered", false)
        });
        let step =
            Step { step: self.steps.len() + 1, title: title.to_owned(), ok: evidence.not_so.is_empty(), evidence };
        self.ok &= step.ok;
        let said = self.say(&step.to_string());
        self.steps.push(step);
        said
    }

    /// Prints the end of it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn conclude(&self, world: &World, took: Duration, kept: Option<&Kept>) -> Result<(), ControlError> {
        let held = self.steps.iter().filter(|step| step.ok).count();
        let whole = Whole { ok: self.ok, world, steps: &self.steps, duration_ms: took.as_millis(), kept };
        output::print(self.format, &whole, |_| {
            let mut text = format!("\n{held} of {} steps held in {:.1} s\n", self.steps.len(), took.as_secs_f64());
            if let Some(kept) = kept {
                text.push_str("\nEverything is up. Look around:\n");
                for line in &kept.look {
                    text.push_str(&format!("  {line}\n"));
                }
                text.push_str(&format!("Remove it:\n  {}\n", kept.remove));
            }
            text
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>2}  {:<4}  {}", self.step, if self.ok { "ok" } else { "FAIL" }, self.title)?;
        for (name, value) in &self.evidence.facts {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            write!(f, "\n          {:<20}  {shown}", name.replace('_', " "))?;
        }
        for what in &self.evidence.not_so {
            write!(f, "\n          {:<20}  {what}", "NOT SO")?;
        }
        Ok(())
    }
}
