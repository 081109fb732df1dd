//! A copy of the history, as it comes out of the log.

use super::moderation::Operator;
use super::{Desk, Outcome, Trouble};
use crate::admin::{Backup, BackupError, BackupPart};
use crate::control::protocol::{self as api, Refusal};
use crate::control::server::Replies;
use crate::control::wire::Parameters;

/// A copy that is being given out. Dropping it ends it.
pub(in crate::control) struct Copying {
    backup: Backup,
    operator: Operator,
}

/// What is to be said next.
pub(in crate::control) enum Next {
    Part(api::BackupPart),
    Last(api::BackupPart),
    Refused(Refusal),
}

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Busy => Refusal::BackupUnderWay {},
            BackupError::NotKept(store) => Refusal::NothingToBackUp { store: store.to_owned() },
            BackupError::Failed(reason) => Refusal::BackupFailed { reason },
        }
    }
}

impl Desk<'_> {
    pub(super) async fn backup(&self, with: Parameters, replies: &Replies) -> Result<Outcome, Trouble> {
        with.end()?;
        if !replies.more() {
            return Err(Refusal::ExpectedMore {}.into());
        }
        if replies.oneway() {
            return Ok(Outcome::Answered);
        }
        let operator = self.operator().await;
        let backup = self.admin.backup().await?.map_err(Refusal::from)?;
        Ok(Outcome::Copy(Copying { backup, operator }))
    }
}

impl Copying {
    pub(in crate::control) async fn next(&mut self) -> Next {
        let part = match self.backup.next().await {
            Some(Ok(part)) => part,
            Some(Err(error)) => {
                self.operator.did("backup", 1, 0, 1, format_args!("asked for a backup of the history: {error}"));
                return Next::Refused(error.into());
            }
            None => return Next::Refused(Refusal::Stopping {}),
        };
        let nothing = api::BackupPart::default();
        match part {
            BackupPart::Copied { bytes, of } => {
                Next::Part(api::BackupPart { progress: Some(api::BackupProgress { bytes, of }), ..nothing })
            }
            BackupPart::Chunk(chunk) => Next::Part(api::BackupPart { chunk: Some(chunk), ..nothing }),
            BackupPart::Done(done) => {
                let words =
                    format_args!("took a backup of the history: {} entries, {} bytes", done.entries, done.bytes);
                self.operator.did("backup", 1, 1, 0, words);
                let (bytes, sha256, rooms, entries) = (done.bytes, done.sha256, done.rooms, done.entries);
                Next::Last(api::BackupPart {
                    whole: Some(api::BackupWhole { bytes, sha256, rooms, entries }),
                    ..nothing
                })
            }
        }
    }
}
