//! Data on stdout, as a table for people or as JSON for programs.

use comfy_table::{Cell, ContentArrangement, Row, Table, presets};
use serde::Serialize;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// `-o table|json`, on everything that shows something.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Output {
    /// How to print.
    #[arg(short, long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

impl Output {
    /// Prints `value` as JSON, or lets `table` print it for people.
    pub fn show<T: Serialize>(self, value: &T, table: impl FnOnce(&T)) {
        match self.output {
            Format::Table => table(value),
            Format::Json => {
                println!("{}", serde_json::to_string_pretty(value).expect("our own types are JSON"));
            }
        }
    }
}

/// How long ago, in the largest unit that fits: `5s`, `12m`, `3h`, `40d`.
pub fn age(since_millis: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = (now.as_millis() as u64).saturating_sub(since_millis) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A plain table, as `kubectl` prints them: no lines, columns in capitals.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    table_of(header.into(), rows)
}

/// The same for columns that are not known beforehand.
pub fn table_of<H: Into<Cell>, R: Into<Row>>(header: Vec<H>, rows: impl IntoIterator<Item = R>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}
