//! The file in the state folder that keeps bans and mutes across restarts.
//!
//! JSON, written whole and put in place in one step, so that a reader or a crash never meets half of
//! it. A thread of its own writes, so that nobody's message waits for the disk. What a sanction
//! means is the chat's.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self as blocking, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::chat::id::{RoomName, UserId};
use crate::chat::sanction::{BanTarget, Measure, Sanction};
use crate::tls::write_private;

const FILE: &str = "sanctions.json";
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Of the file's form; another one is refused.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    version: u32,
    sanctions: Vec<Line>,
}

/// One sanction, flat, as a person reads it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: u64,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<RoomName>,
    reason: String,
    by: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ban,
    Mute,
}

/// The sanctions kept in `folder`; none where there is no file. A file that cannot be read is an
/// error that names it: going on without bans is not ours to decide.
pub fn load(folder: &Path) -> io::Result<Vec<Sanction>> {
    let path = folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()))),
    };
    let damaged = |why: String| {
        let what = format!("{} cannot be used: {why}; mend it, or move it away to start without bans", path.display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let book: Book = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    if book.version != VERSION {
        return Err(damaged(format!("it has version {}, and this program knows {VERSION}", book.version)));
    }
    book.sanctions.into_iter().map(Sanction::try_from).collect::<Result<_, _>>().map_err(damaged)
}

impl TryFrom<Line> for Sanction {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let Line { id, kind, user, ip, room, reason, by, since, until } = line;
        let time = |text: String| humantime::parse_rfc3339(&text).map_err(|e| format!("{text}: {e}"));
        let measure = match (kind, user, ip, room) {
            (Kind::Ban, Some(user), None, None) => Measure::Ban(BanTarget::User(user)),
            (Kind::Ban, None, Some(net), None) => Measure::Ban(BanTarget::Net(net)),
            (Kind::Mute, Some(user), None, room) => Measure::Mute { user, room },
            _ => return Err(format!("number {id} is neither a ban of a user or an ip, nor a mute of a user")),
        };
        Ok(Sanction { id, measure, reason, by, since: time(since)?, until: until.map(time).transpose()? })
    }
}

impl From<&Sanction> for Line {
    fn from(sanction: &Sanction) -> Self {
        let (kind, user, ip, room) = match &sanction.measure {
            Measure::Ban(BanTarget::User(user)) => (Kind::Ban, Some(user.clone()), None, None),
            Measure::Ban(BanTarget::Net(net)) => (Kind::Ban, None, Some(*net), None),
            Measure::Mute { user, room } => (Kind::Mute, Some(user.clone()), None, room.clone()),
        };
        let time = |time: SystemTime| humantime::format_rfc3339_millis(time).to_string();
        let Sanction { id, reason, by, since, until, .. } = sanction;
        let (reason, by, since, until) = (reason.clone(), by.clone(), time(*since), until.map(time));
        Line { id: *id, kind, user, ip, room, reason, by, since, until }
    }
}

/// Which version was written, or why not.
pub type Saved = (u64, Result<(), String>);

/// Writes what it is given, on a thread of its own; of several that wait only the newest.
pub struct Saver {
    orders: Option<blocking::Sender<(u64, Vec<Arc<Sanction>>)>>,
    saved: mpsc::UnboundedReceiver<Saved>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    pub fn start(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let (orders, wanted) = blocking::channel();
        // One answer for each order at the most, so it is as short as the orders are.
        let (done, saved) = mpsc::unbounded_channel();
        let work = move || write_all(&path, &wanted, &done);
        let thread = std::thread::Builder::new().name("wschat-bans".into()).spawn(work)?;
        Ok(Saver { orders: Some(orders), saved, thread: Some(thread) })
    }

    /// `version` comes back from [`Saver::saved`], or a later one.
    pub fn save(&self, version: u64, sanctions: Vec<Arc<Sanction>>) {
        // The thread ends only with us.
        let _ = self.orders.as_ref().map(|orders| orders.send((version, sanctions)));
    }

    /// The next version that is on disk, and with it all before it; or why it is not.
    pub async fn saved(&mut self) -> Saved {
        match self.saved.recv().await {
            Some(saved) => saved,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Saver {
    /// What has been ordered is on disk before the daemon ends.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic ends the process (see Cargo.toml).
            let _ = thread.join();
        }
    }
}

fn write_all(path: &Path, wanted: &blocking::Receiver<(u64, Vec<Arc<Sanction>>)>, done: &mpsc::UnboundedSender<Saved>) {
    let (mut unsaved, mut failing, mut last) = (None, false, false);
    loop {
        let next = match unsaved.take() {
            // What could not be saved is tried again, so that a restart long after a full disk finds it.
            Some(failed) => match wanted.recv_timeout(AGAIN) {
                Err(RecvTimeoutError::Timeout) => Ok(failed),
                // The daemon ends: once more, and then it cannot be helped.
                Err(RecvTimeoutError::Disconnected) => {
                    last = true;
                    Ok(failed)
                }
                Ok(newer) => Ok(newer),
            },
            None => wanted.recv().map_err(RecvTimeoutError::from),
        };
        let Ok(mut order) = next else { return };
        while let Ok(newer) = wanted.try_recv() {
            order = newer;
        }
        let (version, sanctions) = order;
        let book = Book { version: VERSION, sanctions: sanctions.iter().map(|s| Line::from(&**s)).collect() };
        let written = serde_json::to_vec_pretty(&book).map_err(io::Error::from);
        let written = written.and_then(|text| write_private(path, &text));
        let result = written.map_err(|e| format!("cannot write {}: {e}", path.display()));
        match (&result, failing) {
            (Err(why), false) => tracing::error!("bans and mutes are in force but not saved: {why}"),
            (Ok(()), true) => tracing::info!("bans and mutes are saved again"),
            _ => {}
        }
        failing = result.is_err();
        if failing {
            unsaved = Some((version, sanctions));
        }
        // Nobody waits for the answer once the daemon is on its way out.
        let _ = done.send((version, result));
        if last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Sanction> {
        let user = UserId::parse("ann").unwrap();
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_millis(s);
        let measures = [
            Measure::Ban(BanTarget::User(user.clone())),
            Measure::Ban(BanTarget::Net("192.0.2.0/24".parse().unwrap())),
            Measure::Mute { user: user.clone(), room: RoomName::parse("大厅").ok() },
            Measure::Mute { user, room: None },
        ];
        let one = |(id, measure)| Sanction {
            id: id as u64 + 7,
            measure,
            reason: "\"a\"\n".into(),
            by: "root".into(),
            since: at(1_700_000_000_123),
            until: (id % 2 == 0).then(|| at(1_800_000_000_000)),
        };
        measures.into_iter().enumerate().map(one).collect()
    }

    #[tokio::test]
    async fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), []);
        let mut saver = Saver::start(folder.path()).unwrap();
        saver.save(1, Vec::new());
        saver.save(2, some().into_iter().map(Arc::new).collect());
        while saver.saved().await.0 < 2 {}
        assert_eq!(load(folder.path()).unwrap(), some());
        saver.save(3, Vec::new());
        drop(saver);
        assert_eq!(load(folder.path()).unwrap(), [], "an order is carried out before the end");
    }

    #[tokio::test]
    async fn a_full_or_lost_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut saver = Saver::start(&gone).unwrap();
        saver.save(1, Vec::new());
        let (1, Err(why)) = saver.saved().await else { panic!("saved into nothing") };
        assert!(why.contains("gone/sanctions.json"), "{why}");
        // Nothing more is ordered: it is written by itself once that is possible.
        fs::create_dir(&gone).unwrap();
        while saver.saved().await != (1, Ok(())) {}
        assert_eq!(load(&gone).unwrap(), []);
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let other =
            r#"{"version":1,"sanctions":[{"id":1,"kind":"ban","reason":"","by":"","since":"2026-01-01T00:00:00Z"}]}"#;
        for text in ["", "{", r#"{"version":2,"sanctions":[]}"#, other] {
            fs::write(&path, text).unwrap();
            let why = load(folder.path()).unwrap_err().to_string();
            assert!(why.contains("sanctions.json") && why.contains("move it away"), "{why}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
