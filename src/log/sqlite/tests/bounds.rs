//! Nothing grows without end: rooms, the file, the journal.

use std::sync::atomic::AtomicBool;

use super::*;

fn kept(log: &mut SqliteLog, name: &RoomName) -> (u64, u64) {
    let (_, _, first, head) = read(log, name, HistoryRange::Latest, 1).unwrap();
    (first, head)
}

/// Writes without waiting for each answer.
fn fill(log: &mut SqliteLog, name: &RoomName, count: u64, bytes: usize) {
    let text = "y".repeat(bytes);
    for _ in 0..count / 100 {
        for i in 0..100 {
            submit(log, name, i, message("ann", &text, now()));
        }
        for _ in 0..100 {
            assert!(matches!(reply(log), LogReply::Committed { .. }));
        }
    }
}

#[test]
fn a_room_keeps_so_many_and_the_file_finds_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    fill(&mut log, &name, 2000, 200);
    let size = |log: &SqliteLog| {
        log.with(|db| db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap());
        fs::metadata(folder.path().join("wschat.db")).unwrap().len()
    };
    let filled = size(&log);
    for _ in 0..5 {
        fill(&mut log, &name, 4000, 200);
        assert!(size(&log) < filled * 3 / 2, "{} after {filled}", size(&log));
    }
    assert_eq!(kept(&mut log, &name), (21_001, 22_000));
    log.retain(Retention { keep: 10, keep_for: 36_500 * DAY, max_bytes: 0 });
    log.with(|_| {});
    assert_eq!(kept(&mut log, &name), (21_991, 22_000));
}

#[test]
fn more_than_one_step_takes_goes_in_steps() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let rooms = ["a", "b", "c"].map(room);
    for name in &rooms {
        open(&mut log, name);
        fill(&mut log, name, 1000, 10);
    }
    close(&mut log, &rooms[2]);
    log.retain(Retention { keep: 5, keep_for: 36_500 * DAY, max_bytes: 0 });
    for (name, head) in rooms.iter().zip([1001, 1001]) {
        // Whatever has gone already, what is told is what there is.
        let LogReply::Committed { seq, first, .. } = say(&mut log, name, "on") else { panic!("refused") };
        let (entries, _, oldest, _) = read(&mut log, name, HistoryRange::After(0), 2000).unwrap();
        assert_eq!((seq, entries.first().map(|e| e.seq)), (head, Some(oldest)));
        assert!(first <= oldest);
    }
    log.with(|_| {});
    assert_eq!([kept(&mut log, &rooms[0]), kept(&mut log, &rooms[2])], [(997, 1001), (996, 1000)]);
}

#[test]
fn old_entries_go_with_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    log.retain(Retention { keep: 1000, keep_for: DAY, max_bytes: 0 });
    let name = room("a");
    open(&mut log, &name);
    for age in [50, 40, 30, 20, 10] {
        append(&mut log, &name, message("ann", "x", now() - Duration::from_secs(age * 3600)));
    }
    log.with(|_| {});
    assert_eq!(kept(&mut log, &name), (4, 5));
    assert_eq!(delete(&mut log, &name, 3).failure(), Some(LogFailure::NoSuchMessage));
    assert!(matches!(delete(&mut log, &name, 4), LogReply::Committed { seq: 6, first: 4, .. }));
}

impl LogReply {
    fn failure(self) -> Option<LogFailure> {
        match self {
            LogReply::Failed { failure, .. } => Some(failure),
            _ => None,
        }
    }
}

#[test]
fn a_room_of_which_nothing_is_left_comes_back_under_another_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    log.retain(Retention { keep: 1000, keep_for: DAY, max_bytes: 0 });
    let (dead, used, empty) = (room("dead"), room("used"), room("empty"));
    let (epoch, ..) = open(&mut log, &dead);
    let (other, ..) = open(&mut log, &used);
    let (unwritten, ..) = open(&mut log, &empty);
    for name in [&dead, &used] {
        append(&mut log, name, message("ann", "x", now() - 2 * DAY));
    }
    log.with(|_| {});
    assert_eq!((kept(&mut log, &dead), kept(&mut log, &used)), ((2, 1), (2, 1)), "open rooms keep their numbers");
    close(&mut log, &dead);
    log.with(|_| {});
    assert_eq!(read(&mut log, &dead, HistoryRange::Latest, 1).unwrap_err(), LogFailure::NoSuchRoom);
    let (again, head, first) = open(&mut log, &dead);
    assert_eq!((head, first), (0, 1));
    assert_ne!(again, epoch);
    assert!(is_committed(&say(&mut log, &dead, "y"), 1));
    assert!(is_committed(&say(&mut log, &used, "y"), 2));
    // Whose epoch has been told keeps it, though it is written first now.
    assert!(is_committed(&say(&mut log, &empty, "y"), 1));
    drop(log);
    let mut log = open_log(folder.path());
    assert_eq!(open(&mut log, &dead), (again, 1, 1));
    assert_eq!(open(&mut log, &used).0, other);
    assert_eq!(open(&mut log, &empty).0, unwritten);
}

#[test]
fn the_whole_stays_within_its_bound_and_the_largest_pay() {
    let folder = tempfile::tempdir().unwrap();
    let most = 4 << 20;
    let retention = Retention { keep: 1_000_000, keep_for: 36_500 * DAY, max_bytes: most };
    let mut log = SqliteLog::open(Options { retention, ..options(folder.path()) }).unwrap();
    let (large, larger, small) = (room("large"), room("larger"), room("small"));
    for name in [&large, &larger, &small] {
        open(&mut log, name);
    }
    fill(&mut log, &small, 100, 100);
    for _ in 0..10 {
        fill(&mut log, &large, 500, 500);
        fill(&mut log, &larger, 1000, 500);
        log.with(|_| {});
    }
    log.with(|db| db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap());
    // Between two looks at it it may grow a little.
    let size = fs::metadata(folder.path().join("wschat.db")).unwrap().len();
    assert!(size < most * 3 / 2, "{size}");
    assert_eq!(kept(&mut log, &small), (1, 100));
    let [large, larger] = [large, larger].map(|name| kept(&mut log, &name));
    let [of_large, of_larger] = [large, larger].map(|(first, head)| head + 1 - first);
    assert_eq!((large.1, larger.1), (5000, 10_000));
    assert!(of_large > 1000 && of_larger > 1000 && of_larger < 2 * of_large, "{of_large} {of_larger}");
}

#[test]
fn readers_do_not_make_the_journal_grow() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    let over = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (over, path) = (over.clone(), folder.path().join("wschat.db"));
        move || {
            // There is never a moment in which nobody reads.
            let (mut one, mut other) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
            other.execute_batch("BEGIN").unwrap();
            while !over.load(Ordering::Relaxed) {
                one.execute_batch("BEGIN; SELECT head FROM room").unwrap();
                other.execute_batch("COMMIT").unwrap();
                std::mem::swap(&mut one, &mut other);
            }
        }
    });
    let journal = folder.path().join("wschat.db-wal");
    for _ in 0..30 {
        fill(&mut log, &name, 100, 20_000);
    }
    // A reader that gets no processor for long holds up more than is waited for; but as long as there is
    // writing, a moment comes in which all is taken in, although somebody always reads.
    let begun = std::time::Instant::now();
    while fs::metadata(&journal).unwrap().len() >= 45 << 20 {
        assert!(begun.elapsed() < PATIENCE, "more than 60 MB were written, and stay");
        fill(&mut log, &name, 100, 20_000);
    }
    over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

#[test]
fn a_journal_that_another_program_reads_from_is_emptied_once_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    say(&mut log, &name, "secret-word");
    let foreign = Connection::open(folder.path().join("wschat.db")).unwrap();
    foreign.execute_batch("BEGIN; SELECT count(*) FROM entry").unwrap();
    assert!(is_committed(&delete(&mut log, &name, 1), 2));
    assert!(is_committed(&say(&mut log, &name, "written meanwhile"), 3));
    assert!(on_disk(folder.path(), "secret-word"), "who reads still sees it");
    foreign.execute_batch("COMMIT").unwrap();
    let begun = std::time::Instant::now();
    while on_disk(folder.path(), "secret-word") {
        assert!(begun.elapsed() < PATIENCE, "it is still there");
        std::thread::yield_now();
    }
}
