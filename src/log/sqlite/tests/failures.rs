//! Disks that are full, databases that others hold, commits that fail, files that are damaged.

use super::*;

/// No more pages than there are: the database is as full as a disk.
fn fill_up(log: &SqliteLog) {
    log.with(|db| {
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let _: i64 = db.pragma_update_and_check(None, "max_page_count", pages, |row| row.get(0)).unwrap();
    });
}

fn is_failing(health: &Health) -> bool {
    matches!(health, Health::Failing { .. })
}

#[test]
fn a_full_disk_is_told_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    let (epoch, ..) = open(&mut log, &name);
    say(&mut log, &name, "before");
    fill_up(&log);
    let long = "x".repeat(100_000);
    let told = why(say(&mut log, &name, &long));
    assert!(told.contains("is full") && told.contains("wschat.db"), "{told}");
    let Health::Failing { why: health, .. } = log.wait_for(is_failing) else { panic!("good") };
    assert_eq!(health, told);
    // Who writes on is refused, who reads is not, and people come in, to rooms new and old.
    assert_eq!(why(say(&mut log, &name, "short")), told);
    assert_eq!(texts(&mut log, &name), ["before"]);
    assert_eq!(open(&mut log, &room("new")).1, 0);
    close(&mut log, &name);
    assert_eq!(open(&mut log, &name), (epoch, 1, 1));
    assert!(log.counts().refused >= 2);
    // There is room again, and nobody writes: it finds out by itself.
    log.with(|db| {
        let _: i64 = db.pragma_update_and_check(None, "max_page_count", 1_000_000, |row| row.get(0)).unwrap();
    });
    log.wait_for(|health| *health == Health::Good);
    assert!(is_committed(&say(&mut log, &name, "after"), 2));
    assert!(is_committed(&say(&mut log, &room("new"), "after"), 1));
    assert_eq!(texts(&mut log, &name), ["before", "after"]);
}

#[test]
fn of_a_group_that_fails_nothing_is_stored_and_all_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    say(&mut log, &name, "before");
    fill_up(&log);
    let held = log.hold();
    submit(&mut log, &name, 1, message("ann", "small, it would fit", now()));
    submit(&mut log, &name, 2, message("ann", &"x".repeat(100_000), now()));
    submit(&mut log, &room("unknown"), 3, message("ann", "x", now()));
    drop(held);
    for ticket in 1..=3 {
        let answer = reply(&mut log);
        assert!(matches!(answer, LogReply::Failed { ticket: Some(Ticket(t)), .. } if t == ticket), "{answer:?}");
        why(answer);
    }
    assert_eq!(texts(&mut log, &name), ["before"]);
    drop(log);
    let mut log = open_log(folder.path());
    assert_eq!(open(&mut log, &name).1, 1);
}

#[test]
fn a_commit_that_fails_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    // Every statement succeeds, and then the commit does not.
    log.with(|db| {
        db.execute_batch(
            "CREATE TABLE parent (x PRIMARY KEY);
             CREATE TABLE child (x REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER harm AFTER INSERT ON entry WHEN new.body = 'bad' BEGIN INSERT INTO child VALUES (1); END",
        )
        .unwrap();
    });
    assert!(is_committed(&say(&mut log, &name, "good"), 1));
    why(say(&mut log, &name, "bad"));
    log.wait_for(|health| *health == Health::Good);
    assert!(is_committed(&say(&mut log, &name, "good"), 2));
    assert_eq!(texts(&mut log, &name), ["good", "good"]);
}

#[test]
fn a_database_that_another_program_holds_is_waited_for_and_then_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    say(&mut log, &name, "before");
    let foreign = Connection::open(folder.path().join("wschat.db")).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let told = why(say(&mut log, &name, "refused"));
    assert!(told.contains("another program"), "{told}");
    assert_eq!(texts(&mut log, &name), ["before"]);
    foreign.execute_batch("COMMIT").unwrap();
    log.wait_for(|health| *health == Health::Good);
    assert!(is_committed(&say(&mut log, &name, "after"), 2));
}

/// Writes over everything of the file but its first pages, which have the schema.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[6 * 4096..].fill(0xa5);
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_that_is_met_while_reading_stops_the_writing_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let name = room("a");
    let mut log = open_log(folder.path());
    open(&mut log, &name);
    for i in 1..=200 {
        say(&mut log, &name, &format!("{i} {}", "x".repeat(1000)));
    }
    drop(log);
    let path = folder.path().join("wschat.db");
    damage(&path);
    let mut log = open_log(folder.path());
    let request = LogRequest::Read {
        room: name.clone(),
        ticket: Ticket(3),
        range: HistoryRange::After(0),
        limit: 1000,
        max_bytes: usize::MAX,
    };
    log.submit(request, now());
    let told = why(reply(&mut log));
    assert!(told.contains("damaged") && told.contains(path.to_str().unwrap()), "{told}");
    log.wait_for(is_failing);
    log.submit(LogRequest::Open { room: room("new") }, now());
    let opened = matches!(reply(&mut log), LogReply::Opened { .. });
    if opened {
        assert_eq!(why(say(&mut log, &room("new"), "refused")), told);
    }
    assert!(is_failing(&log.health().borrow()), "it does not become good by itself");
    let damaged = fs::read(&path).unwrap();
    drop(log);
    assert!(fs::read(&path).unwrap() == damaged, "it is left as it is");
}

#[test]
fn a_file_that_was_moved_away_takes_nothing_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, away) = (folder.path().join("wschat.db"), folder.path().join("away"));
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    say(&mut log, &name, "before");
    fs::rename(&path, &away).unwrap();
    let told = why(say(&mut log, &name, "refused"));
    assert!(told.contains(path.to_str().unwrap()) && told.contains("put that back, or restart"), "{told}");
    fs::write(&path, "another").unwrap();
    assert_eq!(why(say(&mut log, &name, "refused")), told);
    fs::rename(&away, &path).unwrap();
    log.wait_for(|health| *health == Health::Good);
    assert!(is_committed(&say(&mut log, &name, "after"), 2));
    // Found out also where nobody writes.
    fs::rename(&path, &away).unwrap();
    log.wait_for(is_failing);
    fs::rename(&away, &path).unwrap();
    log.wait_for(|health| *health == Health::Good);
    assert_eq!(texts(&mut log, &name), ["before", "after"]);
}

#[test]
fn a_connection_that_cannot_write_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_log(folder.path());
    let name = room("a");
    open(&mut log, &name);
    say(&mut log, &name, "before");
    // What SQLite answers on a file that was opened read-only; it stays with the connection.
    log.with(|db| db.pragma_update(None, "query_only", true).unwrap());
    let told = why(say(&mut log, &name, "refused"));
    assert!(told.contains("cannot be written to"), "{told}");
    log.wait_for(|health| *health == Health::Good);
    assert!(is_committed(&say(&mut log, &name, "after"), 2));
}
