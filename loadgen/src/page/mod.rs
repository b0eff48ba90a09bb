//! Self-contained HTML pages: text and tables written here, charts described here and drawn by
//! `charts.js`. A page asks nothing of any network.

mod run_report;

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

pub(crate) use run_report::{date, run_report};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("charts.js");

/// A page in the making.
#[derive(Debug, Default)]
pub(crate) struct Page {
    title: String,
    body: String,
    charts: Vec<Chart>,
}

/// A chart, as `charts.js` reads it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Chart {
    /// Given by the page.
    pub(crate) id: String,
    /// What it shows.
    pub(crate) title: String,
    /// What to know about it, a sentence or two.
    #[serde(skip)]
    pub(crate) note: String,
    /// Whether it takes the whole width of the page.
    pub(crate) wide: bool,
    /// The axis to the right.
    pub(crate) x: XAxis,
    /// The axis upwards.
    pub(crate) y: YAxis,
    /// What is drawn; in a chart of rows, what their dots stand for.
    pub(crate) lines: Vec<Line>,
    /// Phases: parts of the axis to the right.
    pub(crate) bands: Vec<Band>,
    /// Places on the axis to the right worth a name.
    pub(crate) marks: Vec<Mark>,
    /// Dots in rows instead of lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rows: Option<Vec<Row>>,
}

/// The axis to the right.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct XAxis {
    /// What is along it.
    pub(crate) label: String,
    /// How it is divided.
    pub(crate) kind: XKind,
    /// The unit of a value on it.
    pub(crate) unit: String,
    /// Whether it starts at 0 whatever is on it.
    pub(crate) from_zero: bool,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum XKind {
    /// Evenly.
    #[default]
    Linear,
    /// Evenly, in seconds.
    Time,
    /// Each further nine takes as much room; values are shares from 0 to 1.
    Percentile,
}

/// The axis upwards.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct YAxis {
    /// What is along it, with its unit.
    pub(crate) label: String,
    /// The unit of a value.
    pub(crate) unit: String,
    /// Whether it is logarithmic.
    pub(crate) log: bool,
    /// Its end, where the highest value is not it.
    pub(crate) top: Option<f64>,
}

/// A line of a chart.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Line {
    /// What it is.
    pub(crate) name: String,
    /// A colour of `page.css`: `c1` to `c6` for kinds, `o1` to `o3` for degrees, `grey`.
    pub(crate) color: &'static str,
    /// To the right and upwards; `null` interrupts it.
    pub(crate) points: Vec<(f64, Option<f64>)>,
    /// From where to where values went around it: to the right, low, high.
    pub(crate) spread: Vec<(f64, f64, f64)>,
    /// Dashed: less important, or not measured.
    pub(crate) dashed: bool,
    /// Dots instead of a line.
    pub(crate) dots: bool,
}

/// A named part of an axis.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Band {
    /// What it is.
    pub(crate) name: String,
    /// Where it begins.
    pub(crate) from: f64,
    /// Where it ends.
    pub(crate) to: f64,
}

/// A named place on an axis.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Mark {
    /// Where it is.
    pub(crate) x: f64,
    /// What it is.
    pub(crate) name: String,
}

/// A row of dots.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What it is about.
    pub(crate) name: String,
    /// One a kind.
    pub(crate) dots: Vec<Dot>,
}

/// A value and how far it spread.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Dot {
    /// What it is the value of.
    pub(crate) name: String,
    /// As in [`Line`].
    pub(crate) color: &'static str,
    /// The value, above 0.
    pub(crate) value: f64,
    /// The lowest seen.
    pub(crate) low: f64,
    /// The highest seen.
    pub(crate) high: f64,
}

impl Line {
    /// A line through `points`.
    pub(crate) fn new(
        name: &str,
        color: &'static str,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let points = points.into_iter().map(|(x, y)| (x, y.is_finite().then_some(y))).collect();
        Self { name: name.to_owned(), color, points, ..Self::default() }
    }

    /// The same, dashed.
    pub(crate) fn dashed(self) -> Self {
        Self { dashed: true, ..self }
    }
}

/// How a cell of a table is shown.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// The head of its row.
    Head(String),
    /// Words.
    Text(String),
    /// A number, to the right.
    Number(String),
    /// A number that should not be.
    Bad(String),
    /// Words of warning.
    Flag(String),
}

impl Page {
    /// An empty page.
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), ..Self::default() }
    }

    /// The heading of the page, and a line under it.
    pub(crate) fn head(&mut self, title: &str, below: &str) {
        self.push(format_args!(
            "<h1>{}</h1>\n<p class=\"sub\">{}</p>\n",
            Escaped(title),
            Escaped(below)
        ));
    }

    /// The heading of a part.
    pub(crate) fn section(&mut self, title: &str) {
        self.push(format_args!("<h2>{}</h2>\n", Escaped(title)));
    }

    /// A paragraph.
    pub(crate) fn paragraph(&mut self, text: &str) {
        self.push(format_args!("<p>{}</p>\n", Escaped(text)));
    }

    /// A paragraph in small print.
    pub(crate) fn note(&mut self, text: &str) {
        self.push(format_args!("<p class=\"note\">{}</p>\n", Escaped(text)));
    }

    /// The one sentence that matters; `kind` is `held`, `invalid` or `broken`.
    pub(crate) fn verdict(&mut self, kind: &str, label: &str, sentence: &str) {
        self.push(format_args!(
            "<div class=\"verdict {kind}\"><b>{}</b>{}</div>\n",
            Escaped(label),
            Escaped(sentence)
        ));
    }

    /// A row of single figures: what, the figure, what to know about it.
    pub(crate) fn tiles(&mut self, tiles: &[(String, String, String)]) {
        self.body.push_str("<div class=\"tiles\">\n");
        for (name, figure, note) in tiles {
            self.push(format_args!(
                "<div class=\"tile\"><span>{}</span><strong>{}</strong><small>{}</small></div>\n",
                Escaped(name),
                Escaped(figure),
                Escaped(note)
            ));
        }
        self.body.push_str("</div>\n");
    }

    /// Charts, two beside each other where there is room.
    pub(crate) fn charts(&mut self, charts: impl IntoIterator<Item = Chart>) {
        self.body.push_str("<div class=\"charts\">\n");
        for chart in charts {
            let id = format!("chart-{}", self.charts.len() + 1);
            let class = if chart.wide { " class=\"wide\"" } else { "" };
            self.push(format_args!(
                "<figure id=\"{id}\"{class}><figcaption><h3>{}</h3>",
                Escaped(&chart.title)
            ));
            if !chart.note.is_empty() {
                self.push(format_args!("<p class=\"note\">{}</p>", Escaped(&chart.note)));
            }
            self.body.push_str("</figcaption></figure>\n");
            self.charts.push(Chart { id, ..chart });
        }
        self.body.push_str("</div>\n");
    }

    /// A table. Columns whose cells are numbers have their heads to the right.
    pub(crate) fn table(&mut self, heads: &[&str], rows: &[Vec<Cell>]) {
        self.body.push_str("<div class=\"scroll\"><table>\n");
        if !heads.is_empty() {
            self.body.push_str("<thead><tr>");
            for (column, head) in heads.iter().enumerate() {
                let cell = rows.first().and_then(|row| row.get(column));
                let number = matches!(cell, Some(Cell::Number(_) | Cell::Bad(_)));
                let class = if number { " class=\"n\"" } else { "" };
                self.push(format_args!("<th{class}>{}</th>", Escaped(head)));
            }
            self.body.push_str("</tr></thead>\n");
        }
        self.body.push_str("<tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for cell in row {
                match cell {
                    Cell::Head(text) => self.push(format_args!("<th>{}</th>", Escaped(text))),
                    Cell::Text(text) => self.push(format_args!("<td>{}</td>", Escaped(text))),
                    Cell::Number(text) => {
                        self.push(format_args!("<td class=\"n\">{}</td>", Escaped(text)));
                    }
                    Cell::Flag(text) => {
                        self.push(format_args!("<td class=\"flag\">{}</td>", Escaped(text)));
                    }
                    Cell::Bad(text) => {
                        self.push(format_args!("<td class=\"n bad\">{}</td>", Escaped(text)));
                    }
                }
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// Text as it was typed.
    pub(crate) fn code(&mut self, text: &str) {
        self.push(format_args!("<pre>{}</pre>\n", Escaped(text)));
    }

    /// The whole page.
    pub(crate) fn finish(self) -> String {
        let data = serde_json::to_string(&self.charts).expect("charts have nothing JSON has not");
        // The only way out of a script element is "</script" or "<!--".
        let data = data.replace('<', "\\u003c");
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}\
             <footer>Written by loadgen {}. This page is complete in itself.</footer>\n</main>\n\
             <script type=\"application/json\" id=\"charts\">{data}</script>\n\
             <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
            Escaped(&self.title),
            self.body,
            env!("CARGO_PKG_VERSION"),
        )
    }

    fn push(&mut self, text: fmt::Arguments<'_>) {
        fmt::Write::write_fmt(&mut self.body, text).expect("a String takes everything");
    }
}

/// Text as HTML shows it.
struct Escaped<'t>(&'t str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"']) {
            let (before, special) = rest.split_at(at);
            f.write_str(before)?;
            f.write_str(match special.as_bytes().first() {
                Some(b'&') => "&amp;",
                Some(b'<') => "&lt;",
                Some(b'>') => "&gt;",
                _ => "&quot;",
            })?;
            rest = special.get(1..).unwrap_or_default();
        }
        f.write_str(rest)
    }
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A figure with three digits that mean something.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    if size >= 999.5 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded")]
        let whole = grouped(size.round() as u64);
        if value < 0.0 { format!("-{whole}") } else { whole }
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 1.0 || size == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// A time, in the unit that suits it.
pub(crate) fn time_us(micros: f64) -> String {
    if micros >= 1e6 {
        format!("{} s", figure(micros / 1e6))
    } else if micros >= 1_000.0 {
        format!("{} ms", figure(micros / 1e3))
    } else {
        format!("{micros:.0} us")
    }
}

/// Bytes, in the unit that suits them.
pub(crate) fn bytes(count: f64) -> String {
    let size = count.abs();
    let units = [(1e0, "B"), (1_024.0, "KiB"), (1_048_576.0, "MiB"), (1_073_741_824.0, "GiB")];
    let (unit, name) =
        units.into_iter().rev().find(|(unit, _)| size >= *unit).unwrap_or((1.0, "B"));
    if name == "B" { format!("{count:.0} B") } else { format!("{} {name}", figure(count / unit)) }
}

#[cfg(test)]
pub(crate) mod tests;
