//! A disk that forgets what it was not told to keep.
//!
//! It stands between SQLite and the real files and notes every write until the file is synced. At a
//! power cut each sector that was written and not synced is there or is not, as chance has it. What
//! it does not show: a folder that forgets a file, and a disk that lies about syncing.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use rand::RngExt;
use rand::rngs::StdRng;
use rusqlite::ffi;

/// What a disk writes in one piece.
const SECTOR: usize = 512;

/// One file as the disk has it.
#[derive(Clone, Default)]
struct Platter {
    kept: Vec<u8>,
    /// Since the last sync, in their order.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

impl Platter {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.kept.len() < end {
            self.kept.resize(end, 0);
        }
        self.kept[at..end].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { at, bytes } => self.write(at, &bytes),
                Change::Truncate(size) => self.kept.truncate(size),
            }
        }
    }

    /// What is found when the power is back.
    fn after_a_cut(mut self, rng: &mut StdRng) -> Vec<u8> {
        let chance = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Truncate(size) => {
                    if rng.random_bool(chance) {
                        self.kept.truncate(size);
                    }
                }
                Change::Write { at, bytes } => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = bytes.len().min((at + from) / SECTOR * SECTOR + SECTOR - at);
                        if rng.random_bool(chance) {
                            self.write(at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        self.kept
    }
}

#[derive(Default)]
struct Disk {
    platters: HashMap<PathBuf, Platter>,
    /// SQLite's open files, by where it keeps them, and its own methods for each.
    open: HashMap<usize, (PathBuf, &'static ffi::sqlite3_io_methods)>,
    /// Ours in place of those, by where those are: it has one table for files with locks and another
    /// for files without.
    methods: HashMap<usize, &'static ffi::sqlite3_io_methods>,
    /// Each folder right before its database was last synced, which is in the midst of a checkpoint.
    midst: HashMap<PathBuf, HashMap<PathBuf, Platter>>,
}

static DISK: LazyLock<Mutex<Disk>> = LazyLock::new(Mutex::default);

fn disk() -> MutexGuard<'static, Disk> {
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files of this folder as a power cut at this moment would leave them, in another folder.
pub fn cut(folder: &Path, rng: &mut StdRng, into: &Path) {
    leave(&disk().platters, folder, rng, into);
}

/// As [`cut`], in the midst of the last checkpoint since this was asked before; `false` where there
/// was none.
pub fn cut_in_checkpoint(folder: &Path, rng: &mut StdRng, into: &Path) -> bool {
    let Some(platters) = disk().midst.remove(folder) else { return false };
    leave(&platters, folder, rng, into);
    true
}

fn leave(platters: &HashMap<PathBuf, Platter>, folder: &Path, rng: &mut StdRng, into: &Path) {
    let mut names: Vec<&PathBuf> = platters.keys().filter(|path| path.parent() == Some(folder)).collect();
    names.sort();
    for path in names {
        let name = path.file_name().expect("a file");
        fs::write(into.join(name), platters[path].clone().after_a_cut(rng)).expect("our own folder");
    }
}

/// The files of this folder are no longer followed.
pub fn forget(folder: &Path) {
    let mut disk = disk();
    disk.platters.retain(|path, _| path.parent() != Some(folder));
    disk.midst.remove(folder);
}

// -- between SQLite and its own way to files --------------------------------------------------------

struct Real(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's own table of functions lives as long as the process and may be used by any thread.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

/// From now on every database of this process lives on such a disk.
pub fn install() {
    REAL.get_or_init(|| {
        // SAFETY: SQLite hands out its default table, which is copied whole: its functions find what
        // they need in the copied `pAppData`. The copy is never freed.
        unsafe {
            let real = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut ours = *real;
            ours.zName = c"volatile".as_ptr();
            ours.pNext = std::ptr::null_mut();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1), ffi::SQLITE_OK);
            Real(real)
        }
    });
}

unsafe fn path_of(name: *const c_char) -> PathBuf {
    // SAFETY: the caller's name is a C string.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let real = REAL.get().expect("registered after it was found").0;
    // SAFETY: SQLite calls as it would call its own function, which gets what it got.
    unsafe {
        let result = (*real).xOpen.expect("every table has it")(vfs, name, file, flags, out);
        if result != ffi::SQLITE_OK || name.is_null() {
            return result;
        }
        let real: &'static ffi::sqlite3_io_methods = &*(*file).pMethods;
        let path = path_of(name);
        let mut disk = disk();
        let ours = *disk.methods.entry(std::ptr::from_ref(real) as usize).or_insert_with(|| {
            let mut ours = *real;
            ours.xClose = Some(close);
            ours.xWrite = Some(write);
            ours.xTruncate = Some(truncate);
            ours.xSync = Some(sync);
            Box::leak(Box::new(ours))
        });
        (*file).pMethods = ours;
        disk.platters.entry(path.clone()).or_insert_with(|| {
            let kept = fs::read(&path).unwrap_or_default();
            Platter { kept, pending: Vec::new() }
        });
        disk.open.insert(file as usize, (path, real));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    let real = REAL.get().expect("registered after it was found").0;
    // SAFETY: as in `open`.
    unsafe {
        let result = (*real).xDelete.expect("every table has it")(vfs, name, sync);
        if result == ffi::SQLITE_OK {
            disk().platters.remove(&path_of(name));
        }
        result
    }
}

/// SQLite's own methods for an open file.
fn real(file: *mut ffi::sqlite3_file) -> &'static ffi::sqlite3_io_methods {
    disk().open[&(file as usize)].1
}

/// Notes what was done to a file, where it was done.
fn note(file: *mut ffi::sqlite3_file, result: c_int, change: impl FnOnce(&mut Platter)) -> c_int {
    if result == ffi::SQLITE_OK {
        let disk = &mut *disk();
        if let Some(platter) = disk.open.get(&(file as usize)).and_then(|(path, _)| disk.platters.get_mut(path)) {
            change(platter);
        }
    }
    result
}

fn place(number: i64) -> usize {
    usize::try_from(number).expect("no place in a file is negative")
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let real = real(file);
    disk().open.remove(&(file as usize));
    // SAFETY: the file was opened by SQLite's own function, which this belongs to.
    unsafe { real.xClose.expect("every file has it")(file) }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, bytes: *const c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: as in `close`; SQLite gives that many bytes.
    let (result, bytes) = unsafe {
        let result = real(file).xWrite.expect("every file has it")(file, bytes, amount, at);
        (result, std::slice::from_raw_parts(bytes.cast::<u8>(), place(amount.into())))
    };
    note(file, result, |platter| {
        platter.pending.push(Change::Write { at: place(at), bytes: bytes.to_vec() });
    })
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: as in `close`.
    let result = unsafe { real(file).xTruncate.expect("every file has it")(file, size) };
    note(file, result, |platter| platter.pending.push(Change::Truncate(place(size))))
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    {
        let disk = &mut *disk();
        let path = &disk.open[&(file as usize)].0;
        if let (Some(folder), true) = (path.parent(), path.extension() == Some(OsStr::new("db"))) {
            let here = disk.platters.iter().filter(|(path, _)| path.parent() == Some(folder));
            let here = here.map(|(path, platter)| (path.clone(), platter.clone())).collect();
            disk.midst.insert(folder.to_owned(), here);
        }
    }
    // SAFETY: as in `close`.
    let result = unsafe { real(file).xSync.expect("every file has it")(file, flags) };
    note(file, result, Platter::sync)
}

/// Without this nothing that is shown with such a disk means anything.
#[test]
fn it_forgets_what_is_not_synced_and_nothing_else() {
    let mut rng = rand::SeedableRng::seed_from_u64(7);
    install();
    let mut lost_after = |synchronous: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let db = rusqlite::Connection::open(folder.path().join("db")).expect("a database");
        let settings = format!("PRAGMA journal_mode = wal; PRAGMA synchronous = {synchronous}; CREATE TABLE t (n)");
        db.execute_batch(&settings).expect("a database");
        let mut lost = 0;
        for n in 1..=40_i64 {
            db.execute("INSERT INTO t VALUES (?1)", [n]).expect("a database");
            let after = tempfile::tempdir().expect("a temporary folder");
            cut(folder.path(), &mut rng, after.path());
            let copy = rusqlite::Connection::open(after.path().join("db")).expect("a file");
            // Without the journal there is not even a table.
            let found = copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap_or(0);
            lost += i64::from(found < n);
            assert!(found <= n);
        }
        lost
    };
    assert_eq!(lost_after("full"), 0);
    assert!(lost_after("normal") > 10, "the journal is synced only now and then");
    assert!(lost_after("off") > 10);
}
