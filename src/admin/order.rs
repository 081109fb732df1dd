//! Orders of clients and rooms, and the first few of very many.
//!
//! The hub looks at a page at a time and gives back only those of it that may be among the first;
//! whoever asks puts the pages together. Neither ever holds more than a page besides the first few.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::chat::id::{ConnId, RoomName};

/// What clients can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKey {
    Id,
    User,
    Nick,
    Address,
    Age,
    Idle,
    Sendq,
    Rtt,
    In,
    Out,
    InBytes,
    OutBytes,
    /// Messages a second, since somebody last ordered by it.
    InRate,
    OutRate,
}

impl ClientKey {
    pub const ALL: [ClientKey; 14] = [
        ClientKey::Id,
        ClientKey::User,
        ClientKey::Nick,
        ClientKey::Address,
        ClientKey::Age,
        ClientKey::Idle,
        ClientKey::Sendq,
        ClientKey::Rtt,
        ClientKey::In,
        ClientKey::Out,
        ClientKey::InBytes,
        ClientKey::OutBytes,
        ClientKey::InRate,
        ClientKey::OutRate,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ClientKey::Id => "id",
            ClientKey::User => "user",
            ClientKey::Nick => "nick",
            ClientKey::Address => "address",
            ClientKey::Age => "age",
            ClientKey::Idle => "idle",
            ClientKey::Sendq => "sendq",
            ClientKey::Rtt => "rtt",
            ClientKey::In => "in",
            ClientKey::Out => "out",
            ClientKey::InBytes => "in_bytes",
            ClientKey::OutBytes => "out_bytes",
            ClientKey::InRate => "in_rate",
            ClientKey::OutRate => "out_rate",
        }
    }
}

/// What rooms can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomKey {
    Name,
    Users,
    Clients,
    Seq,
    /// Entries a second, since somebody last ordered by it; of equal ones those with more clients.
    Rate,
}

impl RoomKey {
    pub const ALL: [RoomKey; 5] = [RoomKey::Name, RoomKey::Users, RoomKey::Clients, RoomKey::Seq, RoomKey::Rate];

    pub fn as_str(self) -> &'static str {
        match self {
            RoomKey::Name => "name",
            RoomKey::Users => "users",
            RoomKey::Clients => "clients",
            RoomKey::Seq => "seq",
            RoomKey::Rate => "rate",
        }
    }
}

/// The first `most` by `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First<K> {
    pub key: K,
    pub descending: bool,
    pub most: usize,
}

/// A value that things are ordered by; what is absent comes before everything else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Absent,
    Number(u64),
    /// The second decides among those whose first is equal.
    Numbers(u64, u64),
    Text(Arc<str>),
    Address(IpAddr),
}

/// One of those that are equal otherwise comes before another by this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tie {
    Client(ConnId),
    Room(RoomName),
}

/// A place in an order: the smaller one comes first, whichever way the order goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub rank: Rank,
    pub descending: bool,
    pub tie: Tie,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.rank.cmp(&other.rank);
        // Those that are alike keep their own order in both directions.
        let order = if self.descending { order.reverse() } else { order };
        order.then_with(|| self.tie.cmp(&other.tie))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Keeps the first few of all places that it is shown.
#[derive(Debug)]
pub struct Podium {
    most: usize,
    /// The last of them is on top.
    places: BinaryHeap<Place>,
    /// Whoever does not come before this one is not wanted.
    bar: Option<Place>,
}

impl Podium {
    pub fn new(most: usize, bar: Option<Place>) -> Self {
        Podium { most, places: BinaryHeap::new(), bar }
    }

    pub fn show(&mut self, place: Place) {
        if self.bar.as_ref().is_some_and(|bar| place >= *bar) {
            return;
        }
        if self.places.len() < self.most {
            self.places.push(place);
        } else if let Some(mut last) = self.places.peek_mut()
            && place < *last
        {
            *last = place;
        }
    }

    /// In their order.
    pub fn places(self) -> Vec<Place> {
        self.places.into_sorted_vec()
    }
}

/// The first few of a page, each with its place.
#[derive(Clone, Debug)]
pub struct FirstPage<V, N> {
    pub first: Vec<(Place, V)>,
    /// Where the next page begins; absent: that was all.
    pub next: Option<N>,
    /// How many of the page match, among the first or not.
    pub matched: u64,
}

/// Puts pages together.
#[derive(Debug)]
pub struct Merged<V> {
    most: usize,
    first: Vec<(Place, V)>,
    pub matched: u64,
}

impl<V> Merged<V> {
    pub fn new(most: usize) -> Self {
        Merged { most, first: Vec::new(), matched: 0 }
    }

    /// What the next page has to beat.
    pub fn bar(&self) -> Option<Place> {
        self.first.get(self.most.checked_sub(1)?).map(|(place, _)| place.clone())
    }

    /// The beginning of the next page.
    pub fn take<N>(&mut self, page: FirstPage<V, N>) -> Option<N> {
        self.matched += page.matched;
        self.first.extend(page.first);
        self.first.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.first.truncate(self.most);
        page.next
    }

    pub fn all(self) -> impl Iterator<Item = V> {
        self.first.into_iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place((rank, id): (u64, u64), descending: bool) -> Place {
        let rank = if rank == 0 { Rank::Absent } else { Rank::Number(rank) };
        Place { rank, descending, tie: Tie::Client(ConnId(id)) }
    }

    proptest! {
        /// Page by page it is what sorting everything would be.
        #[test]
        fn the_first_of_pages_are_the_first_of_all(
            ranks in prop::collection::vec(0u64..20, 0..200),
            descending: bool,
            most in 0usize..30,
            page in 1usize..40,
        ) {
            let all: Vec<Place> = ranks.iter().zip(1..).map(|(rank, id)| place((*rank, id), descending)).collect();
            let mut merged = Merged::new(most);
            for (n, page) in all.chunks(page).enumerate() {
                let mut podium = Podium::new(most, merged.bar());
                page.iter().for_each(|place| podium.show(place.clone()));
                let first: Vec<(Place, Tie)> =
                    podium.places().into_iter().map(|place| (place.clone(), place.tie)).collect();
                prop_assert!(first.len() <= most);
                merged.take(FirstPage { first, next: Some(n), matched: page.len() as u64 });
            }
            let mut sorted = all.clone();
            sorted.sort();
            sorted.truncate(most);
            prop_assert_eq!(merged.matched, all.len() as u64);
            let expected: Vec<Tie> = sorted.into_iter().map(|place| place.tie).collect();
            prop_assert_eq!(merged.all().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn equal_ones_stand_by_number_whichever_way_the_order_goes() {
        for descending in [false, true] {
            assert!(place((5, 1), descending) < place((5, 2), descending));
        }
        assert!(place((9, 1), true) < place((5, 2), true));
        assert!(place((0, 9), false) < place((5, 2), false));
    }
}
