//! What is stored, in which order it is told, and that it is there afterwards.

use super::*;
use crate::chat::event::{Body, SaidBefore};

#[test]
fn what_is_answered_is_there_after_the_process_has_died() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    let (epoch, ..) = open(&mut log, &name);
    for i in 1..=50 {
        assert!(is_committed(&say(&mut log, &name, &i.to_string()), i));
    }
    // What a process leaves that is killed: the files as they are, with nobody to tidy up.
    let crashed = tempfile::tempdir().unwrap();
    for file in ["wschat.db", "wschat.db-wal", "wschat.db.lock"] {
        fs::copy(folder.path().join(file), crashed.path().join(file)).unwrap();
    }
    assert!(fs::metadata(crashed.path().join("wschat.db-wal")).unwrap().len() > 0, "the journal matters here");
    let mut after = open_log(crashed.path());
    assert_eq!(open(&mut after, &name), (epoch, 50, 1));
    let wanted: Vec<String> = (1..=50).map(|i| i.to_string()).collect();
    assert_eq!(texts(&mut after, &name), wanted);
    assert!(is_committed(&say(&mut after, &name, "on"), 51));
}

#[test]
fn what_waits_is_one_commit_and_is_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    let held = log.hold();
    for i in 1..=300 {
        submit(&mut log, &name, i, message("ann", "x", now()));
    }
    let before = log.counts();
    assert_eq!((before.commits, before.entries, before.waiting), (0, 0, 300));
    drop(held);
    for i in 1..=300 {
        let LogReply::Committed { ticket, seq, first, .. } = reply(&mut log) else { panic!("not committed") };
        assert_eq!((ticket, seq, first), (Ticket(i), i, 1));
    }
    let after = log.counts();
    assert_eq!((after.commits, after.entries, after.waiting, after.refused), (1, 300, 0, 0));
}

#[test]
fn a_quiet_log_commits_at_once_and_a_busy_one_together() {
    let folder = tempfile::tempdir().unwrap();
    // So long that nobody could wait for it by mistake.
    let slow = Options { commit_every: Duration::from_secs(3600), ..options(folder.path()) };
    let mut log = SqliteLog::open(slow).unwrap();
    let name = room("a");
    open(&mut log, &name);
    assert!(is_committed(&say(&mut log, &name, "at once"), 1));
    for i in 2..=5 {
        submit(&mut log, &name, i, message("ann", &i.to_string(), now()));
    }
    // Another room is opened while they wait, and this one is read.
    open(&mut log, &room("b"));
    assert_eq!(texts(&mut log, &name), ["at once"]);
    assert_eq!(log.counts().commits, 1);
    drop(log);
    let mut log = open_log(folder.path());
    open(&mut log, &name);
    assert_eq!(texts(&mut log, &name), ["at once", "2", "3", "4", "5"], "the end commits what waits");
}

#[test]
fn the_end_commits_all_that_waits_however_much_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    let held = log.hold();
    for i in 1..=10_000 {
        submit(&mut log, &name, i, message("ann", "x", now()));
        if i == 9990 {
            // It is answered in its turn, so the rest waits for another commit.
            log.submit(LogRequest::Open { room: name.clone() }, now());
        }
    }
    drop(held);
    drop(log);
    assert_eq!(open(&mut open_log(folder.path()), &name).1, 10_000);
}

#[test]
fn nothing_hangs_where_pages_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    say(&mut log, &name, "x");
    for i in 0..200 {
        let (room, ticket, range) = (name.clone(), Ticket(i), HistoryRange::Latest);
        log.submit(LogRequest::Read { room, ticket, range, limit: 9, max_bytes: 9 }, now());
    }
    submit(&mut log, &name, 1, message("ann", "still written", now()));
    while !is_committed(&reply(&mut log), 2) {}
    // Many more pages than are held ready wait now.
    drop(log);
}

#[test]
fn too_much_that_waits_is_refused_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    let held = log.hold();
    let long = "x".repeat(1 << 20);
    for i in 1..=70 {
        submit(&mut log, &name, i, message("ann", &long, now()));
    }
    assert!(log.counts().waiting < 64);
    drop(held);
    let mut stored = 0;
    for i in 1..=70 {
        match reply(&mut log) {
            LogReply::Committed { ticket, seq, .. } => {
                assert_eq!((ticket, seq), (Ticket(i), i));
                stored = i;
            }
            LogReply::Failed { ticket, failure: LogFailure::Unavailable(why), .. } => {
                assert_eq!(ticket, Some(Ticket(i)));
                assert!(why.contains("slower"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((60..70).contains(&stored), "{stored}");
    let counts = log.counts();
    assert_eq!((counts.entries, counts.refused, counts.waiting), (stored, 70 - stored, 0));
    assert!(is_committed(&say(&mut log, &name, "there is room again"), stored + 1));
}

#[test]
fn a_resume_at_every_offset_gets_exactly_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    log.retain(Retention { keep: 7, keep_for: 36_500 * DAY, max_bytes: 0 });
    let name = room("a");
    open(&mut log, &name);
    for head in 1..=20u64 {
        let LogReply::Committed { first, .. } = say(&mut log, &name, &head.to_string()) else { panic!("refused") };
        assert_eq!(first, head.saturating_sub(6).max(1));
        for at in 0..=head + 1 {
            let (entries, more, oldest, newest) = read(&mut log, &name, HistoryRange::After(at), 100).unwrap();
            let seqs: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, (first.max(at + 1)..=head).collect::<Vec<_>>());
            assert_eq!((more, oldest, newest), (false, first, head));
        }
    }
}

#[test]
fn what_was_said_before_a_restart_is_told_for_ten_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let name = room("a");
    let real = SystemTime::now();
    let ago = |seconds| real - Duration::from_secs(seconds);
    let said = |cid: &str, time| {
        let mut record = message("ann", "x", time);
        let Body::Message { cid: own, .. } = &mut record.body else { unreachable!("it is a message") };
        *own = Some(cid.into());
        record.id = format!("id-{cid}");
        record
    };
    let open_at = |log: &mut SqliteLog, now| -> Vec<SaidBefore> {
        log.submit(LogRequest::Open { room: name.clone() }, now);
        let LogReply::Opened { said, .. } = reply(log) else { panic!("not opened") };
        said
    };
    let mut log = open_log(folder.path());
    assert_eq!(open_at(&mut log, real), []);
    for (cid, age) in [("old", 700), ("b", 500), ("c", 1)] {
        append(&mut log, &name, said(cid, ago(age)));
    }
    append(&mut log, &name, message("ann", "no cid", ago(1)));
    drop(log);

    let mut log = open_log(folder.path());
    let later = SystemTime::now();
    let found = open_at(&mut log, later);
    let names: Vec<_> = found.iter().map(|s| (&*s.cid, s.seq, s.id.as_str(), s.user.as_str())).collect();
    assert_eq!(names, [("b", 2, "id-b", "ann"), ("c", 3, "id-c", "ann")]);
    for (said, age) in found.iter().zip([500, 1]) {
        let least = Duration::from_secs(age);
        assert!(said.age >= least && said.age < least + Duration::from_secs(300), "{:?}", said.age);
    }
    // A clock that has been set back hides nothing: what seems to come from later was said before, too.
    append(&mut log, &name, said("ahead", later + Duration::from_secs(3600)));
    close(&mut log, &name);
    let names: Vec<_> = open_at(&mut log, later).into_iter().map(|s| (s.cid.to_string(), s.age.is_zero())).collect();
    assert_eq!(names, [("b".into(), false), ("c".into(), false), ("ahead".into(), true)]);
    close(&mut log, &name);
    assert_eq!(open_at(&mut log, later + Duration::from_secs(601)), []);
}

#[test]
fn deleted_text_leaves_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let rooms = ["a", "b", "c"].map(room);
    // Short, of a page, of many pages; between others, so that pages split and are filled anew.
    let secrets = ["wxyzzy-short", &"plugh-page ".repeat(80), &"frobozz-long ".repeat(2000)];
    for name in &rooms {
        open(&mut log, name);
    }
    for round in 0..40u64 {
        for name in &rooms {
            say(&mut log, name, &format!("{round} {}", "-".repeat(70 * (round as usize % 5))));
        }
        if round == 20 {
            for (name, secret) in rooms.iter().zip(secrets) {
                say(&mut log, name, secret);
            }
        }
    }
    log.with(|_| {});
    for needle in ["wxyzzy", "plugh", "frobozz"] {
        assert!(on_disk(folder.path(), needle), "{needle}");
    }
    for name in &rooms {
        assert!(matches!(delete(&mut log, name, 22), LogReply::Committed { removed: 1, .. }));
    }
    log.with(|_| {});
    for needle in ["wxyzzy", "plugh", "frobozz"] {
        assert!(!on_disk(folder.path(), needle), "{needle}");
    }
    assert!(on_disk(folder.path(), "---"));
    for name in &rooms {
        assert!(matches!(purge(&mut log, name), LogReply::Committed { removed: 42, first: 43, seq: 43, .. }));
    }
    log.with(|_| {});
    assert!(!on_disk(folder.path(), "---"));
}

#[test]
fn of_many_deleted_texts_none_stays_in_the_gaps_of_pages() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let rooms = ["a", "b", "c"].map(room);
    for name in &rooms {
        open(&mut log, name);
    }
    for i in 0..1500usize {
        // Of many lengths, so that pages are split in many ways.
        let text = format!("TAG{i:06} {}", "k".repeat(i * 7919 % 1500));
        say(&mut log, &rooms[i % 3], &text);
    }
    let gone: Vec<usize> = (0..1500).step_by(7).collect();
    for i in &gone {
        let target = (i / 3 + 1) as u64;
        assert!(matches!(delete(&mut log, &rooms[i % 3], target), LogReply::Committed { .. }));
    }
    // Nothing is waited for: what is answered is gone.
    let left = |gone: &[usize]| {
        let mut bytes = fs::read(folder.path().join("wschat.db")).unwrap();
        bytes.extend(fs::read(folder.path().join("wschat.db-wal")).unwrap());
        let found: std::collections::HashSet<_> =
            bytes.windows(9).filter(|w| w.starts_with(b"TAG")).map(<[u8]>::to_vec).collect();
        gone.iter().copied().filter(|i| found.contains(format!("TAG{i:06}").as_bytes())).collect::<Vec<_>>()
    };
    assert_eq!(left(&gone), [0usize; 0]);
    assert_eq!(left(&[1, 2, 3]), [1, 2, 3]);
    for name in &rooms {
        assert!(matches!(purge(&mut log, name), LogReply::Committed { .. }));
    }
    assert_eq!(left(&(0..1500).collect::<Vec<_>>()), [0usize; 0]);
}

#[test]
fn a_cid_counts_ten_minutes_also_where_its_message_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (few, purged) = (room("few"), room("purged"));
    let real = SystemTime::now();
    let mut log = open_log(folder.path());
    log.retain(Retention { keep: 2, keep_for: 36_500 * DAY, max_bytes: 0 });
    for name in [&few, &purged] {
        open(&mut log, name);
        for (cid, age) in [("old", 700), ("a", 20), ("b", 10), ("c", 5)] {
            let mut record = message("ann", "x", real - Duration::from_secs(age));
            let Body::Message { cid: own, .. } = &mut record.body else { unreachable!("it is a message") };
            *own = Some(cid.into());
            log.submit(LogRequest::Append { room: name.clone(), ticket: Ticket(1), record: record.into() }, real);
            assert!(matches!(reply(&mut log), LogReply::Committed { .. }));
        }
    }
    assert!(matches!(purge(&mut log, &purged), LogReply::Committed { .. }));
    drop(log);
    let mut log = open_log(folder.path());
    let said_at = |log: &mut SqliteLog, name: &RoomName, now| -> Vec<(String, u64)> {
        log.submit(LogRequest::Open { room: name.clone() }, now);
        let LogReply::Opened { said, .. } = reply(log) else { panic!("not opened") };
        close(log, name);
        said.into_iter().map(|said| (said.cid.to_string(), said.seq)).collect()
    };
    let wanted = [("a", 2), ("b", 3), ("c", 4)].map(|(cid, seq)| (cid.to_owned(), seq));
    for name in [&few, &purged] {
        assert_eq!(said_at(&mut log, name, SystemTime::now()), wanted);
    }
    for name in [&few, &purged] {
        assert_eq!(said_at(&mut log, name, real + Duration::from_secs(700)), []);
    }
    // They go then.
    let later = real + Duration::from_secs(700);
    log.submit(LogRequest::Open { room: few.clone() }, later);
    assert!(matches!(reply(&mut log), LogReply::Opened { .. }));
    let record = Arc::new(message("ann", "x", later));
    log.submit(LogRequest::Append { room: few, ticket: Ticket(1), record }, later);
    assert!(matches!(reply(&mut log), LogReply::Committed { .. }));
    log.with(|_| {});
    log.with(|db| {
        let left: i64 = db.query_row("SELECT count(*) FROM said", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    });
}
