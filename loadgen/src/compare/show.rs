//! A comparison as a table and as a page.

use std::fmt::Write as _;

use super::figures::{Comparison, Figure, Spread};
use crate::page::{Cell, Chart, Dot, Line, Page, Row, date, figure};

const COLORS: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];

fn color(broker: usize) -> &'static str {
    COLORS.get(broker % COLORS.len()).copied().unwrap_or("grey")
}

fn spread_text(spread: &Spread) -> String {
    if spread.count == 1 {
        return figure(spread.median);
    }
    format!("{} ({} to {})", figure(spread.median), figure(spread.low), figure(spread.high))
}

/// What a cell says: the figure, and how many times better than the first broker.
fn cell(comparison: &Comparison, scenario: usize, broker: usize, of: Figure) -> String {
    let Some(spread) = comparison.spread(scenario, broker, of) else { return "-".to_owned() };
    let text = spread_text(&spread);
    match comparison.ratio(scenario, broker, of) {
        Some(ratio) if broker > 0 => format!("{text} [{}x]", figure(ratio.median)),
        _ => text,
    }
}

/// Figures that at least one broker has in a scenario.
fn present(comparison: &Comparison, scenario: usize) -> Vec<Figure> {
    let some = |of: &Figure| {
        (0..comparison.brokers.len()).any(|b| comparison.spread(scenario, b, *of).is_some())
    };
    Figure::ALL.into_iter().filter(some).collect()
}

/// What did not hold, a line each.
fn failures(comparison: &Comparison) -> Vec<String> {
    let mut lines = Vec::new();
    for (scenario, text) in comparison.scenarios.iter().enumerate() {
        for (broker, name) in comparison.brokers.iter().enumerate() {
            let (broken, invalid, reason) = comparison.failures(scenario, broker);
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            for (count, what) in [(broken, "broke the contract"), (invalid, "say nothing")] {
                if count > 0 {
                    let of = comparison.repetitions;
                    lines.push(format!("{name}, `{text}`: {count} of {of} runs {what}{reason}"));
                }
            }
        }
    }
    lines
}

const EXPLANATION: &str = "Medians of the runs that held (lowest to highest); in brackets how many times \
    better than the first broker, the median over repetitions in which both held: above 1 is better, also \
    where less is better. Latency is from when a message was due.";

/// One table, in Markdown.
pub(super) fn markdown(comparison: &Comparison) -> String {
    let mut text = format!("{EXPLANATION}\n\n| scenario | figure |");
    let write = "a String takes everything";
    for broker in &comparison.brokers {
        write!(text, " {broker} |").expect(write);
    }
    text += "\n|---|---|";
    text += &"---|".repeat(comparison.brokers.len());
    text.push('\n');
    for (scenario, name) in comparison.scenarios.iter().enumerate() {
        for of in present(comparison, scenario) {
            write!(text, "| `{name}` | {} |", of.name()).expect(write);
            for broker in 0..comparison.brokers.len() {
                write!(text, " {} |", cell(comparison, scenario, broker, of)).expect(write);
            }
            text.push('\n');
        }
    }
    let failures = failures(comparison);
    if !failures.is_empty() {
        text += "\nRuns that did not hold, and are in no figure:\n\n";
        for line in failures {
            writeln!(text, "- {line}").expect(write);
        }
    }
    text
}

/// The page.
pub(super) fn page(comparison: &Comparison) -> String {
    let title = format!("{} side by side", comparison.brokers.join(", "));
    let mut page = Page::new(&title);
    page.head(&title, &format!("{}, {}", date(comparison.started_unix_ms), comparison.machine));
    let wanted =
        comparison.brokers.len() * comparison.scenarios.len() * comparison.repetitions as usize;
    let failed = failures(comparison);
    let sentence = headline(comparison);
    let made = format!(
        " {} runs{}, {} repetitions in turn.",
        comparison.made(),
        if comparison.made() < wanted { format!(" of {wanted}") } else { String::new() },
        comparison.repetitions
    );
    if failed.is_empty() {
        page.verdict("held", "All runs held", &(sentence + &made));
    } else {
        page.verdict("invalid", "Not all runs held", &(sentence + &made));
    }
    page.note(EXPLANATION);
    let figures = Figure::ALL.into_iter().filter_map(|of| ratios(comparison, of));
    page.section(&format!("Beside {}", comparison.brokers.first().map_or("", String::as_str)));
    page.charts(figures);
    for (scenario, name) in comparison.scenarios.iter().enumerate() {
        page.section(name);
        let mut heads = vec![""];
        heads.extend(comparison.brokers.iter().map(String::as_str));
        let rows: Vec<_> = present(comparison, scenario)
            .into_iter()
            .map(|of| {
                let cells = (0..comparison.brokers.len())
                    .map(|broker| Cell::Number(cell(comparison, scenario, broker, of)));
                std::iter::once(Cell::Head(of.name().to_owned())).chain(cells).collect()
            })
            .collect();
        page.table(&heads, &rows);
    }
    if !failed.is_empty() {
        page.section("Runs that did not hold");
        page.note("They are in no figure.");
        page.code(&failed.join("\n"));
    }
    page.finish()
}

/// The brokers beside the first, by what they do a CPU-second, or a connect.
fn headline(comparison: &Comparison) -> String {
    let first = comparison.brokers.first().map_or("", String::as_str);
    let figures = [Figure::DeliveredPerCpuS, Figure::DeliveredPerS, Figure::CpuUsPerConnect];
    let mut said = Vec::new();
    for (broker, name) in comparison.brokers.iter().enumerate().skip(1) {
        let ratios = |of| -> Vec<Spread> {
            (0..comparison.scenarios.len())
                .filter_map(|s| comparison.ratio(s, broker, of))
                .collect()
        };
        let found = figures.into_iter().map(|of| (of, ratios(of))).find(|(_, r)| !r.is_empty());
        let Some((of, ratios)) = found else { continue };
        if ratios.iter().all(|ratio| ratio.low <= 1.0 && ratio.high >= 1.0) {
            said.push(format!("{name} and {first} are not told apart in {}", of.name()));
            continue;
        }
        let medians = Spread::of(ratios.iter().map(|ratio| ratio.median).collect());
        let range = medians.map_or_else(String::new, |medians| {
            let (low, high) = (figure(medians.low), figure(medians.high));
            if low == high { format!("{low} times") } else { format!("{low} to {high} times") }
        });
        said.push(format!("{name} is {range} as good as {first} in {}", of.name()));
    }
    if said.is_empty() { "Nothing can be compared.".to_owned() } else { said.join("; ") + "." }
}

/// A figure in all scenarios, as dots beside the first broker.
fn ratios(comparison: &Comparison, of: Figure) -> Option<Chart> {
    let others = || comparison.brokers.iter().enumerate().skip(1);
    let rows: Vec<Row> = comparison
        .scenarios
        .iter()
        .enumerate()
        .filter_map(|(scenario, name)| {
            let dots: Vec<_> = others()
                .filter_map(|(broker, name)| {
                    let ratio = comparison.ratio(scenario, broker, of)?;
                    Some(Dot {
                        name: name.clone(),
                        color: color(broker),
                        value: ratio.median,
                        low: ratio.low,
                        high: ratio.high,
                    })
                })
                .collect();
            (!dots.is_empty()).then(|| Row { name: name.clone(), dots })
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let lines = others().map(|(broker, name)| Line::new(name, color(broker), [])).collect();
    Some(Chart {
        title: of.name().to_owned(),
        note: "Times better, median and range of the repetitions.".to_owned(),
        lines,
        rows: Some(rows),
        ..Chart::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compare::figures::RunFigures, result::Outcome};

    fn comparison() -> Comparison {
        let mut comparison = Comparison::new(
            vec!["old".to_owned(), "new".to_owned()],
            vec!["bench --qos 1".to_owned()],
            2,
        );
        let run = |value: f64| RunFigures {
            outcome: Outcome::Held,
            reasons: Vec::new(),
            values: vec![(Figure::DeliveredPerCpuS, value)],
        };
        comparison.add(0, 0, 0, run(100.0));
        comparison.add(0, 0, 1, run(110.0));
        comparison.add(0, 1, 0, run(300.0));
        comparison.add(0, 1, 1, RunFigures::failed("it was late"));
        comparison
    }

    #[test]
    fn the_table_has_figures_ratios_and_what_failed() {
        let text = markdown(&comparison());
        assert!(
            text.contains("| `bench --qos 1` | delivered/CPU-s | 105 (100 to 110) | 300 [3.00x] |"),
            "{text}"
        );
        assert!(
            text.contains("- new, `bench --qos 1`: 1 of 2 runs say nothing (it was late)"),
            "{text}"
        );
    }

    #[test]
    fn the_page_begins_with_the_answer() {
        let page = page(&comparison());
        assert!(page.contains("new is 3.00 times as good as old in delivered/CPU-s."), "{page}");
        assert!(page.contains("Not all runs held"));
        assert_eq!(page.matches("<figure").count(), 1);
        crate::page::tests::check_drawn("compare", &page);
    }
}
