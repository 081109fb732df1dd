//! Which nick belongs to whom. No two users hold nicks that differ only in case.

use std::collections::HashMap;

use rand::RngExt;
use rand::rngs::StdRng;

use super::id::{Nick, UserId};

/// Every nick in use, by what two nicks must not share.
#[derive(Default)]
pub struct NickBook {
    holders: HashMap<String, UserId>,
}

impl NickBook {
    /// May `user` take this nick (also in another spelling of the one it has)?
    pub fn is_free(&self, nick: &Nick, user: &UserId) -> bool {
        self.holders.get(&nick.key()).is_none_or(|holder| holder == user)
    }

    /// Who has a nick that cannot be told from this one.
    pub fn holder(&self, nick: &Nick) -> Option<&UserId> {
        self.holders.get(&nick.key())
    }

    /// Gives `nick` to `user`; `false`, and nothing changes, where somebody else has it.
    pub fn take(&mut self, nick: &Nick, user: &UserId) -> bool {
        let key = nick.key();
        if self.holders.get(&key).is_some_and(|holder| holder != user) {
            return false;
        }
        self.holders.insert(key, user.clone());
        true
    }

    /// The nick is free again, if `user` held it.
    pub fn release(&mut self, nick: &Nick, user: &UserId) {
        let key = nick.key();
        if self.holders.get(&key) == Some(user) {
            self.holders.remove(&key);
        }
    }

    /// A nick that nobody has, close to the one that was asked for.
    pub fn free_like(&self, wanted: Option<&Nick>, rng: &mut StdRng) -> Nick {
        let base = wanted.map_or("guest", Nick::as_str);
        // Short numbers first, as people expect them; then ever longer ones, which ends soon.
        for round in 0u32.. {
            let number = match round {
                0..8 if wanted.is_some() => u64::from(round) + 2,
                _ => rng.random_range(0..10u64.pow((3 + round / 8).min(18))),
            };
            let tail = format!("-{number}");
            let room = Nick::MAX_CHARS - tail.len();
            let text: String = base.chars().take(room).chain(tail.chars()).collect();
            if let Ok(nick) = Nick::parse(&text)
                && !self.holders.contains_key(&nick.key())
            {
                return nick;
            }
        }
        unreachable!("the numbers outnumber the users")
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.holders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn nick(text: &str) -> Nick {
        Nick::parse(text).unwrap()
    }

    #[test]
    fn case_does_not_tell_two_users_apart() {
        let (ann, bob) = (UserId::guest("ann"), UserId::guest("bob"));
        let mut book = NickBook::default();
        assert!(book.take(&nick("Straße"), &ann));
        assert!(!book.take(&nick("STRASSE"), &bob));
        assert!(book.take(&nick("STRASSE"), &ann), "one's own nick in another spelling");
        book.release(&nick("strasse"), &bob);
        assert!(!book.is_free(&nick("strasse"), &bob), "only the holder gives it back");
        book.release(&nick("strasse"), &ann);
        assert!(book.is_free(&nick("strasse"), &bob));
    }

    #[test]
    fn a_free_nick_is_found_and_short_enough() {
        let mut book = NickBook::default();
        let mut rng = StdRng::seed_from_u64(1);
        let long = nick(&"界".repeat(32));
        for n in 0..300 {
            let user = UserId::guest(&n.to_string());
            let wanted = [Some(&long), None][n % 2];
            let given = book.free_like(wanted, &mut rng);
            assert!(book.take(&given, &user), "{given}");
        }
        assert_eq!(book.len(), 300);
    }

    #[test]
    fn numbers_are_counted_up_first() {
        let mut book = NickBook::default();
        book.take(&nick("ann"), &UserId::guest("a"));
        assert_eq!(book.free_like(Some(&nick("Ann")), &mut StdRng::seed_from_u64(1)).as_str(), "Ann-2");
    }
}
