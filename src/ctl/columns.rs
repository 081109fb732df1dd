//! The columns of `wschatctl list`: their names, their values, their order.

use std::cmp::Ordering;
use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, ValueEnum};

use super::text::{age, bytes, harmless};
use crate::control::protocol::Client;

/// One column. Its name is the member of the JSON output, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Id,
    User,
    Nick,
    Address,
    Rooms,
    Age,
    Idle,
    Sendq,
    Rtt,
    Port,
    Since,
    Tls,
    Alpn,
    Origin,
    Agent,
    Dialect,
    In,
    Out,
    InBytes,
    OutBytes,
    Resumed,
    TokenExp,
    Roles,
}

/// What is shown where nothing is asked for.
pub const USUAL: [Column; 9] = [
    Column::Id,
    Column::User,
    Column::Nick,
    Column::Address,
    Column::Rooms,
    Column::Age,
    Column::Idle,
    Column::Sendq,
    Column::Rtt,
];

/// A value that knows how it is compared and shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Absent,
    Text(String),
    List(Vec<String>),
    Number(u64),
    Bytes(u64),
    Seconds(f64),
    Flag(bool),
}

impl ValueEnum for Column {
    fn value_variants<'a>() -> &'a [Self] {
        use Column::*;
        &[
            Id, User, Nick, Address, Rooms, Age, Idle, Sendq, Rtt, Port, Since, Tls, Alpn, Origin, Agent, Dialect, In,
            Out, InBytes, OutBytes, Resumed, TokenExp, Roles,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl Column {
    pub fn name(self) -> &'static str {
        match self {
            Column::Id => "id",
            Column::User => "user",
            Column::Nick => "nick",
            Column::Address => "address",
            Column::Rooms => "rooms",
            Column::Age => "age",
            Column::Idle => "idle",
            Column::Sendq => "sendq",
            Column::Rtt => "rtt",
            Column::Port => "port",
            Column::Since => "since",
            Column::Tls => "tls",
            Column::Alpn => "alpn",
            Column::Origin => "origin",
            Column::Agent => "agent",
            Column::Dialect => "dialect",
            Column::In => "in",
            Column::Out => "out",
            Column::InBytes => "in_bytes",
            Column::OutBytes => "out_bytes",
            Column::Resumed => "resumed",
            Column::TokenExp => "token_exp",
            Column::Roles => "roles",
        }
    }

    /// Is the order the same that the daemon would make (`ClientKey` of its interface)?
    pub fn daemon_sorts(self) -> bool {
        use Column::*;
        matches!(self, Id | User | Nick | Age | Idle | Sendq | Rtt | In | Out | InBytes | OutBytes)
    }

    pub fn of(self, client: &Client) -> Cell {
        let text = |text: &Option<String>| text.clone().map_or(Cell::Absent, Cell::Text);
        match self {
            Column::Id => Cell::Number(client.id),
            Column::User => text(&client.user),
            Column::Nick => text(&client.nick),
            Column::Address => Cell::Text(client.address.clone()),
            Column::Rooms => Cell::List(client.rooms.clone()),
            Column::Age => Cell::Seconds(client.age),
            Column::Idle => Cell::Seconds(client.idle),
            Column::Sendq => Cell::Bytes(client.sendq),
            Column::Rtt => client.rtt.map_or(Cell::Absent, Cell::Seconds),
            Column::Port => Cell::Number(client.port.into()),
            Column::Since => Cell::Text(client.since.clone()),
            Column::Tls => text(&client.tls),
            Column::Alpn => text(&client.alpn),
            Column::Origin => text(&client.origin),
            Column::Agent => text(&client.agent),
            Column::Dialect => Cell::Text(client.dialect.clone()),
            Column::In => Cell::Number(client.messages_in),
            Column::Out => Cell::Number(client.messages_out),
            Column::InBytes => Cell::Bytes(client.in_bytes),
            Column::OutBytes => Cell::Bytes(client.out_bytes),
            Column::Resumed => Cell::Flag(client.resumed),
            Column::TokenExp => text(&client.token_exp),
            Column::Roles => Cell::List(client.roles.clone()),
        }
    }
}

impl Cell {
    /// For people: durations and sizes in the unit that fits.
    pub fn for_people(&self) -> String {
        match self {
            Cell::Absent => "-".into(),
            Cell::Seconds(seconds) => age(*seconds),
            Cell::Bytes(count) => bytes(*count),
            Cell::Flag(flag) => if *flag { "yes" } else { "no" }.into(),
            Cell::List(list) if list.is_empty() => "-".into(),
            plain => plain.for_programs(),
        }
    }

    /// For programs: bare seconds and bytes, nothing for what is absent, and never a tab or a line
    /// end inside.
    pub fn for_programs(&self) -> String {
        match self {
            Cell::Absent => String::new(),
            Cell::Text(text) => harmless(text),
            Cell::List(list) => harmless(&list.join(",")),
            Cell::Number(number) | Cell::Bytes(number) => number.to_string(),
            Cell::Seconds(seconds) => seconds.to_string(),
            Cell::Flag(flag) => flag.to_string(),
        }
    }

    /// Numbers by size, lists by length, texts by their letters; what is absent comes first.
    pub fn order(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Absent, Cell::Absent) => Ordering::Equal,
            (Cell::Absent, _) => Ordering::Less,
            (_, Cell::Absent) => Ordering::Greater,
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            (Cell::List(a), Cell::List(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (Cell::Number(a) | Cell::Bytes(a), Cell::Number(b) | Cell::Bytes(b)) => a.cmp(b),
            (Cell::Seconds(a), Cell::Seconds(b)) => a.total_cmp(b),
            (Cell::Flag(a), Cell::Flag(b)) => a.cmp(b),
            // A column has one kind of value.
            _ => Ordering::Equal,
        }
    }
}

/// An order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub column: Column,
    pub descending: bool,
}

/// Reads a column with or without a minus; completions offer the columns.
#[derive(Clone)]
pub struct SortParser;

impl TypedValueParser for SortParser {
    type Value = Sort;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Sort, clap::Error> {
        TypedValueParser::parse_ref(&sort, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Column::value_variants().iter().filter_map(Column::to_possible_value)))
    }
}

fn sort(text: &str) -> Result<Sort, String> {
    let (name, descending) = match text.strip_prefix('-') {
        Some(name) => (name, true),
        None => (text, false),
    };
    let known = || Column::value_variants().iter().map(|column| column.name()).collect::<Vec<_>>().join(", ");
    let column = Column::from_str(name, true).map_err(|_| format!("expected one of {}", known()))?;
    Ok(Sort { column, descending })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_a_member_of_the_json_row() {
        let client = Client {
            id: 1,
            user: None,
            nick: None,
            address: "192.0.2.1".into(),
            port: 1,
            rooms: vec![],
            since: String::new(),
            age: 0.0,
            idle: 0.0,
            sendq: 0,
            rtt: None,
            tls: None,
            alpn: None,
            origin: None,
            agent: None,
            dialect: "json".into(),
            messages_in: 0,
            messages_out: 0,
            in_bytes: 0,
            out_bytes: 0,
            resumed: false,
            token_exp: None,
            roles: vec![],
        };
        let row = serde_json::to_value(&client).unwrap();
        let row = row.as_object().unwrap();
        for column in Column::value_variants() {
            assert!(row.contains_key(column.name()), "{}", column.name());
        }
        assert_eq!(row.len(), Column::value_variants().len());
    }
}
