//! The columns of both lists: which of them a width has room for, and what stands in them.

use super::cells::{fit, number, tame};
use super::model::{Row, Sort};
use super::snapshot::Rates;
use crate::control::protocol as api;
use crate::ctl::text::{age, bytes};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Id,
    User,
    Nick,
    Address,
    Rooms,
    Age,
    Idle,
    Sendq,
    Rtt,
    In,
    Out,
    Dialect,
    Agent,
}

/// A column with the width that it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub field: Field,
    pub width: usize,
}

/// In the order in which they stand, each with its narrowest and its widest width.
const FIELDS: [(Field, usize, usize); 13] = [
    (Field::Id, 7, 7),
    (Field::User, 10, 36),
    (Field::Nick, 6, 24),
    (Field::Address, 15, 39),
    (Field::Rooms, 8, 32),
    (Field::Age, 6, 6),
    (Field::Idle, 6, 6),
    (Field::Sendq, 7, 7),
    (Field::Rtt, 6, 6),
    (Field::In, 6, 6),
    (Field::Out, 6, 6),
    (Field::Dialect, 7, 7),
    (Field::Agent, 12, 60),
];

/// Which get their room first.
const WANTED: [Field; 13] = [
    Field::Id,
    Field::Nick,
    Field::Sendq,
    Field::Address,
    Field::Idle,
    Field::Age,
    Field::Out,
    Field::In,
    Field::Rtt,
    Field::Rooms,
    Field::User,
    Field::Dialect,
    Field::Agent,
];

impl Field {
    pub fn title(self) -> &'static str {
        match self {
            Field::Id => "ID",
            Field::User => "USER",
            Field::Nick => "NICK",
            Field::Address => "ADDRESS",
            Field::Rooms => "ROOMS",
            Field::Age => "AGE",
            Field::Idle => "IDLE",
            Field::Sendq => "SENDQ",
            Field::Rtt => "RTT",
            Field::In => "IN/s",
            Field::Out => "OUT/s",
            Field::Dialect => "DIALECT",
            Field::Agent => "AGENT",
        }
    }

    pub fn right(self) -> bool {
        use Field::*;
        matches!(self, Id | Age | Idle | Sendq | Rtt | In | Out)
    }

    pub fn is_of(self, sort: Sort) -> bool {
        matches!(
            (self, sort),
            (Field::Sendq, Sort::Sendq)
                | (Field::Idle, Sort::Idle)
                | (Field::Age, Sort::Age)
                | (Field::Rtt, Sort::Rtt)
                | (Field::In, Sort::In)
                | (Field::Out, Sort::Out)
                | (Field::Nick, Sort::Nick)
                | (Field::Address, Sort::Address)
        )
    }

    fn range(self) -> (usize, usize) {
        FIELDS.iter().find(|(field, ..)| *field == self).map_or((0, 0), |(_, least, most)| (*least, *most))
    }

    pub fn of(self, row: &Row, rates: &Rates) -> String {
        let client = &row.client;
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".into(), tame);
        let rate = |which: fn(&(f64, f64)) -> f64| {
            rates.clients.get(&client.id).map_or_else(|| "-".into(), |rates| number(which(rates)))
        };
        match self {
            Field::Id => client.id.to_string(),
            Field::User => text(&client.user),
            Field::Nick => text(&client.nick),
            Field::Address => tame(&client.address),
            Field::Rooms if client.rooms.is_empty() => "-".into(),
            Field::Rooms => tame(&client.rooms.join(",")),
            Field::Age => age(client.age),
            Field::Idle if row.gone => "gone".into(),
            Field::Idle => age(client.idle),
            Field::Sendq => bytes(client.sendq),
            Field::Rtt => client.rtt.map_or_else(|| "-".into(), age),
            Field::In => rate(|rates| rates.0),
            Field::Out => rate(|rates| rates.1),
            Field::Dialect => tame(&client.dialect),
            Field::Agent => text(&client.agent),
        }
    }
}

/// The columns of a list of clients so many cells wide.
pub fn columns(width: usize) -> Vec<Column> {
    let mut left = width;
    let mut chosen: Vec<Column> = Vec::new();
    for field in WANTED {
        let (least, _) = field.range();
        match left.checked_sub(least + 1) {
            Some(rest) => left = rest,
            None => break,
        }
        chosen.push(Column { field, width: least });
    }
    for field in [Field::Nick, Field::Address, Field::Rooms, Field::User, Field::Agent] {
        if let Some(column) = chosen.iter_mut().find(|column| column.field == field) {
            // An address of IPv6 is worth its cells only where many are left.
            let more = (field.range().1 - column.width).min(left);
            column.width += more;
            left -= more;
        }
    }
    let place = |column: &Column| FIELDS.iter().position(|(field, ..)| *field == column.field);
    chosen.sort_by_key(place);
    chosen
}

/// A room on one line.
pub fn room(room: &api::Room, rates: &Rates, width: usize) -> String {
    let rate = rates.rooms.get(&room.name).map_or_else(|| "-".into(), |rate| number(*rate));
    room_line(
        &tame(&room.name),
        &rate,
        &room.clients.to_string(),
        &room.users.to_string(),
        &room.seq.to_string(),
        width,
    )
}

pub fn room_heading(width: usize) -> String {
    room_line("ROOM", "MSG/s", "CLIENTS", "USERS", "SEQ", width)
}

fn room_line(name: &str, rate: &str, clients: &str, users: &str, seq: &str, width: usize) -> String {
    let numbers =
        format!("{} {} {} {}", fit(rate, 6, true), fit(clients, 8, true), fit(users, 8, true), fit(seq, 11, true));
    format!("{} {numbers}", fit(name, width.saturating_sub(numbers.len() + 1).min(64), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_never_pass_the_width() {
        for width in 0..300 {
            let columns = columns(width);
            let taken: usize = columns.iter().map(|column| column.width + 1).sum();
            assert!(taken <= width, "{taken} of {width}");
        }
        let names: Vec<&str> = columns(79).iter().map(|column| column.field.title()).collect();
        assert_eq!(names, ["ID", "NICK", "ADDRESS", "AGE", "IDLE", "SENDQ", "RTT", "IN/s", "OUT/s"]);
        assert_eq!(columns(250).len(), FIELDS.len());
    }
}
