//! What is shown while a run goes on: a line a second on standard error.

use std::io::{self, IsTerminal as _, Write as _};

use crate::result::{Point, Series};

/// Lines on a terminal between two headings.
const LINES_A_HEADING: u32 = 20;

/// Shows how a run goes.
#[derive(Debug)]
pub(crate) struct Progress {
    form: Form,
    lines: u32,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Columns with a heading now and then.
    Terminal,
    /// `name=value`, for a log.
    Plain,
    /// No line.
    Silent,
}

impl Progress {
    /// For standard error as it is; `quiet` shows nothing.
    pub(crate) fn new(quiet: bool) -> Self {
        let form = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Form::Silent,
            (false, true) => Form::Terminal,
            (false, false) => Form::Plain,
        };
        Self { form, lines: 0 }
    }

    /// Shows `second` of a run, which is in `phase`, if its threads have reported it.
    pub(crate) fn show(&mut self, second: u32, phase: &str, series: &Series) {
        let Some(point) = series.points.get((second / series.interval_s) as usize) else { return };
        // A second of a coarser series is a part of its point.
        if let Some(line) = self.line(second, phase, point, series.interval_s.into()) {
            // A terminal that went away is no reason to end a measurement.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn line(&mut self, second: u32, phase: &str, point: &Point, interval_s: u64) -> Option<String> {
        let (sent, got) = (point.published / interval_s, point.delivered / interval_s);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| point.latency.at_quantile_us(q) / 1e3);
        let (connected, connecting) = (point.connected, point.connecting);
        let (lost, lag_ms) = (point.connections_lost, point.lag_max_us / 1_000);
        let line = match self.form {
            Form::Silent => return None,
            Form::Plain => format!(
                "second={second} phase={phase} published_per_s={sent} delivered_per_s={got} \
                 p50_ms={p50:.2} p99_ms={p99:.2} p999_ms={p999:.2} connected={connected} \
                 connecting={connecting} connections_lost={lost} lag_ms={lag_ms}\n"
            ),
            Form::Terminal => {
                let heading = if self.lines.is_multiple_of(LINES_A_HEADING) {
                    format!(
                        "{:>6}  {:<10} {:>10} {:>11} {:>8} {:>8} {:>8} {:>9} {:>10} {:>5} {:>6}\n",
                        "second",
                        "phase",
                        "sent/s",
                        "delivered/s",
                        "p50 ms",
                        "p99 ms",
                        "p99.9",
                        "connected",
                        "connecting",
                        "lost",
                        "lag ms"
                    )
                } else {
                    String::new()
                };
                format!(
                    "{heading}{second:>6}  {phase:<10} {sent:>10} {got:>11} {p50:>8.2} {p99:>8.2} \
                     {p999:>8.2} {connected:>9} {connecting:>10} {lost:>5} {lag_ms:>6}\n"
                )
            }
        };
        self.lines += 1;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> Point {
        let mut point = Point { published: 10, delivered: 20, connected: 3, ..Point::default() };
        point.latency.record_ns(2_000_000);
        point
    }

    #[test]
    fn a_log_gets_names_and_values() {
        let mut progress = Progress { form: Form::Plain, lines: 0 };
        let line = progress.line(7, "measure", &point(), 1).unwrap();
        assert!(line.starts_with("second=7 phase=measure published_per_s=10 delivered_per_s=20 "));
        assert!(line.contains(" p99_ms=2.0") && line.contains(" connected=3 "), "{line}");
    }

    #[test]
    fn a_terminal_gets_a_heading_again_when_it_scrolled_away() {
        let mut progress = Progress { form: Form::Terminal, lines: 0 };
        let with_heading = |progress: &mut Progress| {
            progress.line(1, "hold", &point(), 1).unwrap().starts_with("second")
        };
        let headings = (0..41).filter(|_| with_heading(&mut progress)).count();
        assert_eq!(headings, 3);
    }

    #[test]
    fn quiet_shows_nothing() {
        let mut progress = Progress { form: Form::Silent, lines: 0 };
        assert_eq!(progress.line(1, "hold", &point(), 1), None);
    }
}
