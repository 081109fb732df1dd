//! Random requests, with restarts in between.

use proptest::prelude::*;

use super::*;
use crate::log::conformance::{self, cases, check, steps};

struct Subject {
    folder: tempfile::TempDir,
    log: Option<SqliteLog>,
}

impl conformance::Subject for Subject {
    fn log(&mut self) -> &mut dyn Log {
        self.log.as_mut().unwrap()
    }

    fn reopen(&mut self) -> bool {
        self.log = None;
        self.log = Some(open_log(self.folder.path()));
        true
    }

    fn settle(&mut self) {
        self.log.as_ref().unwrap().with(|_| {});
    }

    fn tells_said(&self) -> bool {
        true
    }
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn answers_as_every_log(steps in steps(), keep in 1u64..20) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open_log(folder.path());
        log.retain(Retention { keep, keep_for: 36_500 * DAY, max_bytes: 0 });
        check(&mut Subject { folder, log: Some(log) }, steps, keep)?;
    }
}
