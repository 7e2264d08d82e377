//! A report as one HTML page: plots, tables and the commands that made them. It needs no
//! network and no script; the same reports give the same bytes.

use std::fmt::Write;

use crate::{
    columns::{Column, Row, columns_of},
    experiment::Report,
    experiments::Experiment,
    plot::{Axis, Chart, Scale, Series, Style, escape},
};

/// A picture of an experiment's rows.
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) x: (Column, Scale),
    pub(crate) y: (Column, Scale),
    /// Rows that differ in one of these are lines of their own.
    pub(crate) by: &'static [Column],
    pub(crate) theory: &'static [Theory],
    /// What a model says of each row, in the unit of y.
    pub(crate) model: Option<Column>,
}

/// A line that somebody worked out.
pub(crate) struct Theory {
    pub(crate) label: &'static str,
    /// Drawn only if such a row is there.
    pub(crate) when: (Column, &'static str),
    /// From x to y.
    pub(crate) of: fn(f64) -> f64,
}

/// Points of a theory's line between the first and the last x: enough for a smooth one.
const THEORY_POINTS: u32 = 48;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1200px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{margin-top:3rem;border-top:1px solid #ddd;padding-top:1rem}\
pre{background:#f5f5f5;padding:.6rem .8rem;overflow-x:auto}svg{max-width:100%;height:auto}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(500px,1fr));gap:1rem}\
.rows{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid #eee}\
table.said{margin-top:1rem}.said td,.said th{text-align:left;white-space:normal}\
th{color:#555;font-weight:600;vertical-align:bottom}dt{font-weight:600}dl{font-size:13px}";

/// All reports on one page.
pub fn page(reports: &[Report]) -> String {
    let mut html = String::new();
    let names: Vec<&str> = reports.iter().map(|report| report.experiment).collect();
    let title = format!("Atoll's lab: {}", names.join(", "));
    // Writing to a string does not fail.
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>Simulated networks, measured by Atoll {}. The nodes are the protocol code that runs over real connections; what is simulated, and what is not, stands in docs/lab.md. The same command gives the same rows.</p>\n",
        env!("CARGO_PKG_VERSION"),
    );
    for report in reports {
        section(&mut html, report);
    }
    let _ = write!(html, "<h2>Columns</h2>\n<dl>\n");
    let rows: Vec<Row> = reports.iter().flat_map(|report| report.rows.clone()).collect();
    for column in columns_of(&rows) {
        let _ = writeln!(
            html,
            "<dt>{}</dt><dd>{}{}</dd>",
            column.name(),
            if column.unit().is_empty() { String::new() } else { format!("{}: ", column.unit()) },
            escape(column.meaning())
        );
    }
    html.push_str("</dl>\n</body>\n</html>\n");
    html
}

fn section(html: &mut String, report: &Report) {
    let Some(experiment) = Experiment::named(report.experiment) else { return };
    let _ = writeln!(
        html,
        "<h2>{}</h2>\n<p>{}.</p>\n<pre>{}</pre>\n<div class=\"plots\">",
        report.experiment,
        escape(experiment.about),
        escape(&command(report, experiment))
    );
    for plot in experiment.plots {
        if let Some(chart) = chart(plot, &report.rows) {
            html.push_str(&chart.to_svg());
        }
    }
    html.push_str("</div>\n<div class=\"rows\"><table>\n<tr>");
    let columns = columns_of(&report.rows);
    for column in &columns {
        let _ = write!(html, "<th>{}</th>", column.name());
    }
    html.push_str("</tr>\n");
    for row in &report.rows {
        html.push_str("<tr>");
        for column in &columns {
            let _ = write!(html, "<td>{}</td>", escape(&row.shown(*column)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    let winners = report.winners.iter().map(|winner| {
        [&winner.condition, winner.column, &winner.overlay, &winner.shown()].map(str::to_owned)
    });
    table(html, ["condition", "best by", "overlay", "with"], winners.collect());
    let verdicts = report
        .verdicts
        .iter()
        .map(|verdict| [verdict.claim, verdict.verdict.name(), &verdict.because].map(str::to_owned));
    table(html, ["claim", "verdict", "because"], verdicts.collect());
}

/// What follows from the rows; nothing if there is nothing.
fn table<const COLUMNS: usize>(html: &mut String, header: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) {
    if rows.is_empty() {
        return;
    }
    html.push_str("<table class=\"said\">\n<tr>");
    header.iter().for_each(|name| {
        let _ = write!(html, "<th>{name}</th>");
    });
    html.push_str("</tr>\n");
    for row in rows {
        html.push_str("<tr>");
        row.iter().for_each(|text| {
            let _ = write!(html, "<td>{}</td>", escape(text));
        });
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

/// What to paste to get these rows again.
fn command(report: &Report, experiment: &Experiment) -> String {
    let mut command = format!("atoll lab run {} --seed {}", report.experiment, report.seed);
    let defaults = experiment.parameters();
    for (name, value) in &report.parameters {
        if defaults.iter().all(|described| described.name != *name || described.default != *value) {
            let _ = write!(command, " --set {name}={value}");
        }
    }
    command
}

/// None if no row has both columns.
fn chart(plot: &Plot, rows: &[Row]) -> Option<Chart> {
    let mut series: Vec<Series> = Vec::new();
    let mut xs: Vec<f64> = Vec::new();
    let at = |row: &Row| Some((row.number(plot.x.0)?, row.number(plot.y.0)?));
    let drawn: Vec<&Row> = rows.iter().filter(|row| at(row).is_some()).collect();
    for (row, (x, y)) in drawn.iter().filter_map(|row| Some((row, at(row)?))) {
        xs.push(x);
        let label = label(plot, row, &drawn);
        match series.iter_mut().find(|series| series.label == label) {
            Some(series) => series.points.push((x, y)),
            None => {
                series.push(Series { label, style: Style::Measured, like: None, points: vec![(x, y)] });
            }
        }
    }
    if let Some(column) = plot.model {
        for row in &drawn {
            let Some(point) = row.number(plot.x.0).zip(row.number(column)) else { continue };
            let measured = label(plot, row, &drawn);
            let like = series.iter().position(|series| series.label == measured);
            let label = format!("{measured} (model)");
            match series.iter_mut().find(|series| series.label == label) {
                Some(series) => series.points.push(point),
                None => series.push(Series { label, style: Style::Theory, like, points: vec![point] }),
            }
        }
    }
    let first = xs.iter().copied().reduce(f64::min)?;
    let last = xs.iter().copied().reduce(f64::max)?;
    for theory in plot.theory {
        let (column, text) = theory.when;
        if rows.iter().any(|row| row.value(column).is_some_and(|value| value.to_string() == text)) {
            let between = |step: u32| {
                let part = f64::from(step) / f64::from(THEORY_POINTS);
                match plot.x.1 {
                    Scale::Linear => first + (last - first) * part,
                    Scale::Logarithmic => first * (last / first).powf(part),
                }
            };
            let points = (0..=THEORY_POINTS).map(between).map(|x| (x, (theory.of)(x))).collect();
            let label = theory.label.to_owned();
            series.push(Series { label, style: Style::Theory, like: None, points });
        }
    }
    let axis = |(column, scale): (Column, Scale)| {
        let label = match column.unit() {
            unit if unit == column.name() => unit.to_owned(),
            unit => format!("{} ({unit})", column.name()),
        };
        Axis { label, scale }
    };
    Some(Chart { title: plot.title.to_owned(), x: axis(plot.x), y: axis(plot.y), series })
}

/// A line's name: the first of the columns that set lines apart, and what else differs.
fn label(plot: &Plot, row: &Row, rows: &[&Row]) -> String {
    let mut parts = Vec::new();
    for (index, column) in plot.by.iter().enumerate() {
        if row.value(*column).is_none() {
            continue;
        }
        if index == 0 {
            parts.push(row.shown(*column));
        } else if rows.iter().any(|other| other.value(*column) != row.value(*column)) {
            parts.push(format!("{} {}", column.name(), row.shown(*column)));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seed: u64) -> Report {
        let given = [("nodes", "20,50"), ("lookups", "20")].map(|(name, text)| (name.into(), text.into()));
        Experiment::named("lookup").expect("one").run(seed, &given, &mut |_| ()).expect("runs")
    }

    #[test]
    fn a_page_stands_by_itself() {
        let html = page(&[report(1)]);
        for fetched in ["<script", "<link", "<img", "src=", "@import", "url("] {
            assert!(!html.contains(fetched), "{fetched}");
        }
        // The one address is SVG's name, which nobody fetches.
        assert_eq!(html.matches("http").count(), html.matches("http://www.w3.org/2000/svg").count());
        assert!(html.contains("<svg") && html.contains("<td>chord</td>"));
        assert!(html.contains("½·log₂N"), "the theory is drawn in");
    }

    #[test]
    fn the_command_on_a_page_gives_the_same_rows_again() {
        let report = report(3);
        let experiment = Experiment::named("lookup").expect("one");
        let command = command(&report, experiment);
        assert_eq!(command, "atoll lab run lookup --seed 3 --set nodes=20,50 --set lookups=20");
        let given: Vec<(String, String)> = command
            .split(" --set ")
            .skip(1)
            .map(|set| set.split_once('=').map(|(name, text)| (name.into(), text.into())).expect("a value"))
            .collect();
        assert_eq!(experiment.run(3, &given, &mut |_| ()).expect("runs"), report);
    }

    #[test]
    fn lines_are_told_apart_by_what_differs() {
        let plot = Plot {
            title: "t",
            x: (Column::FailedShare, Scale::Linear),
            y: (Column::HopsMean, Scale::Linear),
            by: &[Column::Overlay, Column::Nodes, Column::RepairS],
            theory: &[],
            model: None,
        };
        let row = |repair: u64| {
            let row = Row::default().with(Column::Overlay, "chord").with(Column::Nodes, 5_usize);
            row.with(Column::RepairS, repair).with(Column::FailedShare, 0.5).with(Column::HopsMean, 2.0)
        };
        let chart = chart(&plot, &[row(0), row(600), Row::default()]).expect("rows");
        let labels: Vec<&str> = chart.series.iter().map(|series| series.label.as_str()).collect();
        assert_eq!(labels, ["chord, repair_s 0", "chord, repair_s 600"]);
    }
}
