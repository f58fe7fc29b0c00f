//! What etcd says that it was asked, by its own metrics. Reading is pure.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::super::rows::Unit;

/// What etcd was asked in a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    /// Transactions.
    txn: f64,
    /// Reads.
    range: f64,
    /// Bytes that clients sent.
    bytes_in: f64,
    /// Bytes that clients were sent, watches included.
    bytes_out: f64,
    /// In seconds.
    time: f64,
}

/// What etcd has counted since its start.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    at: Instant,
    sum: Requests,
}

impl Counted {
    /// Reads etcd's metrics.
    ///
    /// # Errors
    /// When a counter is missing.
    pub fn read(text: &str, at: Instant) -> Result<Self> {
        let sum = |name: &str, label: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
            let figures: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
            (!figures.is_empty()).then(|| figures.iter().sum()).with_context(|| format!("etcd has no {name} {label}"))
        };
        let of_method = |method: &str| sum("grpc_server_handled_total{", &format!("grpc_method=\"{method}\""));
        let sum = Requests {
            txn: of_method("Txn")?,
            range: of_method("Range")?,
            bytes_in: sum("etcd_network_client_grpc_received_bytes_total ", "")?,
            bytes_out: sum("etcd_network_client_grpc_sent_bytes_total ", "")?,
            time: 0.0,
        };
        Ok(Self { at, sum })
    }

    /// What was asked since.
    pub fn since(&self, before: &Self) -> Requests {
        let (now, then) = (&self.sum, &before.sum);
        Requests {
            txn: now.txn - then.txn,
            range: now.range - then.range,
            bytes_in: now.bytes_in - then.bytes_in,
            bytes_out: now.bytes_out - then.bytes_out,
            time: self.at.saturating_duration_since(before.at).max(Duration::from_nanos(1)).as_secs_f64(),
        }
    }
}

impl Requests {
    /// The same in a second.
    pub fn per_second(&self) -> Self {
        self.times(1.0 / self.time)
    }

    /// Without what is asked while nothing happens.
    pub fn without(&self, idle: &Self) -> Self {
        let mut rest = *self;
        rest.add(&idle.times(-self.time));
        rest
    }

    /// Adds what was asked in another time.
    pub fn add(&mut self, other: &Self) {
        self.txn += other.txn;
        self.range += other.range;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.time += other.time;
    }

    /// The mean of so many rounds, by what is counted.
    #[expect(clippy::cast_precision_loss, reason = "few rounds")]
    pub fn per_round(&self, rounds: usize) -> [(&'static str, Unit, f64); 4] {
        let mean = self.times(1.0 / rounds as f64);
        [
            ("transactions", Unit::Count, mean.txn),
            ("reads", Unit::Count, mean.range),
            ("bytes to etcd", Unit::Bytes, mean.bytes_in),
            ("bytes from etcd to all hosts", Unit::Bytes, mean.bytes_out),
        ]
    }

    fn times(&self, factor: f64) -> Self {
        Self {
            txn: self.txn * factor,
            range: self.range * factor,
            bytes_in: self.bytes_in * factor,
            bytes_out: self.bytes_out * factor,
            time: self.time * factor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(txn: u32, bytes: u32) -> String {
        format!(
            "grpc_server_handled_total{{grpc_code=\"OK\",grpc_method=\"Txn\"}} {txn}\n\
             grpc_server_handled_total{{grpc_code=\"Unknown\",grpc_method=\"Txn\"}} 1\n\
             grpc_server_handled_total{{grpc_code=\"OK\",grpc_method=\"Range\"}} 7\n\
             etcd_network_client_grpc_received_bytes_total {bytes}\netcd_network_client_grpc_sent_bytes_total 1e+03\n"
        )
    }

    #[test]
    fn what_an_idle_fleet_asks_is_no_part_of_an_attach_and_a_missing_counter_is_no_zero() {
        let start = Instant::now();
        let read = |txn, bytes, seconds| {
            Counted::read(&text(txn, bytes), start + Duration::from_secs(seconds)).expect("all are there")
        };
        let (first, second, third) = (read(10, 1000, 0), read(20, 3000, 10), read(23, 3700, 12));
        let idle = second.since(&first).per_second();
        let asked = third.since(&second).without(&idle);
        assert!((asked.txn - 1.0).abs() < 1e-9 && (asked.bytes_in - 300.0).abs() < 1e-9, "{asked:?}");
        assert!(Counted::read(&text(1, 1).replace("received", "other"), start).is_err());
    }
}
