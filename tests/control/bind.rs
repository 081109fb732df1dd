//! What the sockets' files look like from outside.

use std::os::unix::fs::MetadataExt;

use crate::fake::{Daemon, some};

#[test]
fn sockets_are_ours_alone_and_go_with_the_daemon() {
    let mut daemon = Daemon::start(some());
    for path in [daemon.control(), daemon.push()] {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
    daemon.stop();
    assert!(!daemon.control().exists() && !daemon.push().exists());
    assert!(daemon.folder().exists());
}
