//! Files of comparisons and rankings, parsed strictly: what is not understood is an error with its line.

use std::collections::BTreeMap;
use std::path::Path;

use exact::fit::{Dataset, ObservationError};
use serde::Deserialize;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Layout {
    /// Comma-separated with a header.
    Csv,
    /// Tab-separated with a header.
    Tsv,
    /// One JSON object a line.
    Jsonl,
}

impl Layout {
    /// What a file's name says.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// Why a file is not understood, and where.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct ParseError {
    line: u64,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the text is not UTF-8; convert the file")]
    Encoding,
    #[error("{0}")]
    Csv(csv::Error),
    #[error("{0}")]
    Json(serde_json::Error),
    #[error(
        "the header `{0}` is none of `winner,loser[,count][,tie]`, `1,2,3,..[,others][,count]` and \
         `ranking,item,rank`; name the columns so"
    )]
    Header(String),
    #[error("the column `{0}` appears twice in the header")]
    RepeatedColumn(String),
    #[error("{found} cells under a header of {expected}; quote cells that contain the separator")]
    Cells { found: usize, expected: usize },
    #[error("the cell under `{0}` is empty")]
    Empty(String),
    #[error("`{value}` under `{column}` is not {expected}")]
    Value {
        column: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("the line needs either `winner` and `loser` (with `count`, `tie`) or `ranking` (with `others`, `count`)")]
    Keys,
    #[error("in ranking `{0}`, which begins here: {1}")]
    InRanking(String, ObservationError),
    #[error("{0}")]
    Observation(#[from] ObservationError),
}

type Parsed<T> = Result<T, Cause>;

/// Reads all observations.
pub fn parse(bytes: &[u8], layout: Layout) -> Result<Dataset, ParseError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        ParseError {
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count() as u64,
            cause: Cause::Encoding,
        }
    })?;
    match layout {
        Layout::Csv => parse_table(text, b','),
        Layout::Tsv => parse_table(text, b'\t'),
        Layout::Jsonl => parse_json_lines(text),
    }
}

/// The three kinds of table, with the columns they need.
enum Table {
    Comparisons {
        winner: usize,
        loser: usize,
        tie: Option<usize>,
        count: Option<usize>,
    },
    Rankings {
        places: Vec<usize>,
        others: Option<usize>,
        count: Option<usize>,
    },
    RankedItems {
        ranking: usize,
        item: usize,
        rank: usize,
    },
}

impl Table {
    fn of(header: &[String]) -> Parsed<Self> {
        let column = |name: &str| header.iter().position(|column| column == name);
        if let Some(repeated) = (1..header.len()).find(|&i| header[..i].contains(&header[i])) {
            return Err(Cause::RepeatedColumn(header[repeated].clone()));
        }
        let only = |names: &[&str]| header.iter().all(|column| names.contains(&column.as_str()));
        let places: Vec<usize> = (1..).map_while(|place: usize| column(&place.to_string())).collect();
        let extras = usize::from(column("others").is_some()) + usize::from(column("count").is_some());
        match (
            column("winner"),
            column("loser"),
            column("ranking"),
            column("item"),
            column("rank"),
        ) {
            (Some(winner), Some(loser), ..) if only(&["winner", "loser", "count", "tie"]) => Ok(Self::Comparisons {
                winner,
                loser,
                tie: column("tie"),
                count: column("count"),
            }),
            (_, _, Some(ranking), Some(item), Some(rank)) if only(&["ranking", "item", "rank"]) => {
                Ok(Self::RankedItems { ranking, item, rank })
            }
            _ if !places.is_empty() && places.len() + extras == header.len() => Ok(Self::Rankings {
                places,
                others: column("others"),
                count: column("count"),
            }),
            _ => Err(Cause::Header(header.join(","))),
        }
    }
}

/// Items of one ranking given row by row: where it begins, and the items at each rank.
struct Gathered {
    start: u64,
    places: BTreeMap<i64, Vec<String>>,
}

fn parse_table(text: &str, separator: u8) -> Result<Dataset, ParseError> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut data = Dataset::new();
    let mut header: Option<(usize, Table)> = None;
    let mut gathered: BTreeMap<String, Gathered> = BTreeMap::new();
    let mut order = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            let start = error.position().map_or(0, csv::Position::byte);
            ParseError {
                line: line_at(text, start),
                cause: Cause::Csv(error),
            }
        })?;
        let start = record.position().map_or(0, csv::Position::byte);
        let here = |cause| ParseError {
            line: line_at(text, start),
            cause,
        };
        let cells: Vec<&str> = record.iter().collect();
        let Some((width, table)) = &header else {
            let names: Vec<String> = cells.iter().map(|cell| cell.to_lowercase()).collect();
            header = Some((names.len(), Table::of(&names).map_err(here)?));
            continue;
        };
        // Rows of rankings may stop early; any other row has a cell for every column.
        let short = matches!(table, Table::Rankings { .. }) && cells.len() < *width;
        let row = match cells.len() == *width || short {
            true => match table {
                Table::RankedItems { ranking, item, rank } => ranked_item(&cells, *ranking, *item, *rank).map(|row| {
                    let known = gathered.entry(row.0.to_owned()).or_insert_with(|| {
                        order.push(row.0.to_owned());
                        Gathered {
                            start,
                            places: BTreeMap::new(),
                        }
                    });
                    known.places.entry(row.2).or_default().push(row.1.to_owned());
                }),
                Table::Comparisons {
                    winner,
                    loser,
                    tie,
                    count,
                } => comparison(&mut data, &cells, (*winner, *loser), *tie, *count),
                Table::Rankings { places, others, count } => ranking(&mut data, &cells, places, *others, *count),
            },
            false => Err(Cause::Cells {
                found: cells.len(),
                expected: *width,
            }),
        };
        row.map_err(here)?;
    }
    if header.is_none() {
        return Err(ParseError {
            line: 1,
            cause: Cause::Header(String::new()),
        });
    }
    for name in order {
        if let Some(Gathered { start, places }) = gathered.remove(&name) {
            let places: Vec<Vec<String>> = places.into_values().collect();
            data.add_ranking(&places, &[""; 0], 1.0).map_err(|error| ParseError {
                line: line_at(text, start),
                cause: Cause::InRanking(name, error),
            })?;
        }
    }
    Ok(data)
}

/// The line of the row that begins at a byte, or after the line ends and blank lines there.
fn line_at(text: &str, byte: u64) -> u64 {
    let (before, rest) = text.split_at_checked(byte as usize).unwrap_or((text, ""));
    let blank = rest.len() - rest.trim_start_matches(['\r', '\n']).len();
    1 + before
        .bytes()
        .chain(rest.bytes().take(blank))
        .filter(|&byte| byte == b'\n')
        .count() as u64
}

fn comparison(
    data: &mut Dataset,
    cells: &[&str],
    (winner, loser): (usize, usize),
    tie: Option<usize>,
    count: Option<usize>,
) -> Parsed<()> {
    let winner = filled(cells, winner, "winner")?;
    let loser = filled(cells, loser, "loser")?;
    let count = count.map_or(Ok(1.0), |column| number(cells[column]))?;
    let tied = match tie.map_or("", |column| cells[column]) {
        "" | "0" => false,
        "1" => true,
        word if word.eq_ignore_ascii_case("false") => false,
        word if word.eq_ignore_ascii_case("true") => true,
        word => {
            return Err(Cause::Value {
                column: "tie",
                value: word.to_owned(),
                expected: "true, false, 1, 0 or empty",
            });
        }
    };
    match tied {
        true => data.add_tie(winner, loser, count)?,
        false => data.add_comparison(winner, loser, count)?,
    }
    Ok(())
}

fn ranking(
    data: &mut Dataset,
    cells: &[&str],
    places: &[usize],
    others: Option<usize>,
    count: Option<usize>,
) -> Parsed<()> {
    let cell = |column: usize| cells.get(column).copied().unwrap_or("");
    let mut tied: Vec<Vec<&str>> = places.iter().map(|&column| split(cell(column), '=')).collect();
    while tied.last().is_some_and(Vec::is_empty) {
        tied.pop();
    }
    let blank = |items: &Vec<&str>| items.iter().any(|item| item.is_empty());
    if let Some(place) = tied.iter().position(blank) {
        let value = cell(places[place]).to_owned();
        return Err(Cause::Value {
            column: "1,2,3,..",
            value,
            expected: "items on both sides of `=`",
        });
    }
    let together = others.map_or("", cell);
    let others = split(together, '|');
    if blank(&others) {
        let value = together.to_owned();
        return Err(Cause::Value {
            column: "others",
            value,
            expected: "items on both sides of `|`",
        });
    }
    let count = count.map_or(Ok(1.0), |column| number(cell(column)))?;
    data.add_ranking(&tied, &others, count)?;
    Ok(())
}

fn ranked_item<'a>(cells: &[&'a str], ranking: usize, item: usize, rank: usize) -> Parsed<(&'a str, &'a str, i64)> {
    let ranking = filled(cells, ranking, "ranking")?;
    let item = filled(cells, item, "item")?;
    let cell = filled(cells, rank, "rank")?;
    let rank = cell.parse().map_err(|_| Cause::Value {
        column: "rank",
        value: cell.to_owned(),
        expected: "a whole number",
    })?;
    Ok((ranking, item, rank))
}

fn filled<'a>(cells: &[&'a str], column: usize, name: &str) -> Parsed<&'a str> {
    match cells[column] {
        "" => Err(Cause::Empty(name.to_owned())),
        cell => Ok(cell),
    }
}

fn number(cell: &str) -> Parsed<f64> {
    cell.parse().map_err(|_| Cause::Value {
        column: "count",
        value: cell.to_owned(),
        expected: "a number",
    })
}

/// The items in a cell; none if it is blank.
fn split(cell: &str, separator: char) -> Vec<&str> {
    if cell.is_empty() {
        vec![]
    } else {
        cell.split(separator).map(str::trim).collect()
    }
}

/// One line of a JSON file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    winner: Option<String>,
    loser: Option<String>,
    tie: Option<bool>,
    ranking: Option<Vec<Place>>,
    others: Option<Vec<String>>,
    count: Option<f64>,
}

/// A place of a ranking: one item, or several that tie.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a place of `ranking` must be an item's name or a list of names that tie"
)]
enum Place {
    One(String),
    Tied(Vec<String>),
}

fn parse_json_lines(text: &str) -> Result<Dataset, ParseError> {
    let mut data = Dataset::new();
    for (line, content) in (1..)
        .zip(text.lines())
        .filter(|(_, content)| !content.trim().is_empty())
    {
        json_line(&mut data, content).map_err(|cause| ParseError { line, cause })?;
    }
    Ok(data)
}

fn json_line(data: &mut Dataset, content: &str) -> Parsed<()> {
    let line: Line = serde_json::from_str(content).map_err(Cause::Json)?;
    let count = line.count.unwrap_or(1.0);
    match line {
        Line {
            winner: Some(winner),
            loser: Some(loser),
            tie,
            ranking: None,
            others: None,
            ..
        } => match tie {
            Some(true) => data.add_tie(&winner, &loser, count)?,
            _ => data.add_comparison(&winner, &loser, count)?,
        },
        Line {
            winner: None,
            loser: None,
            tie: None,
            ranking: Some(ranking),
            others,
            ..
        } => {
            let tied = |place| match place {
                Place::One(item) => vec![item],
                Place::Tied(items) => items,
            };
            let places: Vec<Vec<String>> = ranking.into_iter().map(tied).collect();
            data.add_ranking(&places, &others.unwrap_or_default(), count)?;
        }
        _ => return Err(Cause::Keys),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
