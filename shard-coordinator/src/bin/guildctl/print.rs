//! What goes to stdout: JSON, or text for people.

use std::io::{self, Write as _};

use guildhall_shared::cluster_map::{MapVersion, NodeState};
use guildhall_shared::operator::NodeInfo;
use guildhall_shared::timestamp::Timestamp;
use serde::Serialize;

use crate::error::{Error, Result};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Json,
    Text,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    pub(crate) fn print<T: Serialize>(
        self,
        report: &T,
        to_text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        let text = match self {
            Self::Text => to_text(report),
            Self::Json => {
                let json = serde_json::to_string(report);
                json.map_err(|error| Error::Output(error.into()))? + "\n"
            }
        };
        write(text.as_bytes())
    }
}

/// A reader that has gone away (as with `| head`) is no error.
pub(crate) fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

/// Columns as wide as their widest cell; numbers stand right.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }
}

impl Table {
    pub(crate) fn new(head: &[Column]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn to_text(&self) -> String {
        let titles: Vec<String> = self
            .head
            .iter()
            .map(|column| column.title().to_owned())
            .collect();
        let rows: Vec<&Vec<String>> = std::iter::once(&titles).chain(&self.rows).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (place, (cell, column)) in row.iter().zip(&self.head).enumerate() {
                let width = width(place);
                line += &match column {
                    Column::Left(_) => format!("{cell:width$}  "),
                    Column::Right(_) => format!("{cell:>width$}  "),
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// `2026-11-29 03:04:05Z`.
pub(crate) fn time(at_ms: u64) -> String {
    let stamp = Timestamp::from_unix_ms(at_ms).to_string();
    match stamp.get(..19) {
        Some(seconds) => format!("{}Z", seconds.replacen('T', " ", 1)),
        None => stamp,
    }
}

pub(crate) fn map_version(version: MapVersion) -> String {
    format!("{}.{}", version.term, version.version)
}

/// `1.024`.
pub(crate) fn thousandths(milli: u32) -> String {
    format!("{}.{:03}", milli / 1_000, milli % 1_000)
}

/// `-` for what is not known.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What a node does, in a word.
pub(crate) fn node_state(node: &NodeInfo) -> &'static str {
    match (&node.status, node.state) {
        (None, _) => "gone",
        (Some(status), _) if status.stopping => "stopping",
        (_, NodeState::Active) => "active",
        (_, NodeState::Cordoned) => "cordoned",
        (_, NodeState::Draining) => "draining",
    }
}

/// Cores' worth of work: `1.25/4`.
pub(crate) fn cores_busy(cores: &[u16]) -> String {
    let busy: u32 = cores.iter().map(|core| u32::from(*core)).sum();
    format!("{:.2}/{}", f64::from(busy) / 1_000.0, cores.len())
}

/// `1 shard`, `2 shards`.
pub(crate) fn count(number: impl Into<u64>, what: &str) -> String {
    let number = number.into();
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[Column::Left("node"), Column::Right("shards")]);
        table.row(["gateway-1".to_owned(), "7".to_owned()]);
        table.row(["a".to_owned(), "1024".to_owned()]);
        let expected = "\
node       shards
gateway-1       7
a            1024
";
        assert_eq!(table.to_text(), expected);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousandths(1_024), "1.024");
        assert_eq!(cores_busy(&[250, 1_000]), "1.25/2");
        assert_eq!(count(1u32, "shard"), "1 shard");
        assert_eq!(time(1_767_323_045_678), "2026-01-02 03:04:05Z");
    }
}
