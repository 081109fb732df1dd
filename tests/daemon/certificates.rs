//! What docs/OPERATING.md tells to type for a certificate, typed: a certification authority of one's own,
//! and certbot's hook, as it is shipped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::documents::operating;
use crate::support::certificate::Certificate;
use crate::support::daemon::{PLAIN, Ran, TLS};
use crate::support::{Setup, Stream};

#[test]
fn an_authority_of_ones_own_as_documented() {
    let setup =
        Setup::new(&format!("{TLS}[tls]\ncertificate = \"FOLDER/fullchain.pem\"\nkey = \"FOLDER/privkey.pem\"\n"));
    for commands in operating("### A certification authority of your own", "sh") {
        let ran = Ran::of(setup.command("sh").args(["-e", "-c", &commands]));
        assert_eq!(ran.status, 0, "{commands}\n{ran:?}");
    }
    let key = fs::metadata(setup.folder().join("privkey.pem")).expect("it was made");
    assert_eq!(key.permissions().mode() & 0o077, 0, "nobody else reads the key");
    let daemon = setup.start();
    // Whoever trusts the authority trusts the daemon, under its name and its address, and under no other.
    let address = daemon.address().to_string();
    let verify = |how: [&str; 2]| {
        let mut openssl = daemon.command("openssl");
        openssl.args(["s_client", "-connect", &address, "-CAfile", "ca.pem", "-verify_return_error"]).args(how);
        Ran::of(openssl.stdin(std::process::Stdio::null()))
    };
    for good in [["-verify_hostname", "chat.example.org"], ["-verify_ip", "192.0.2.7"]] {
        let ran = verify(good);
        assert!(ran.status == 0 && ran.stdout.contains("Verify return code: 0 (ok)"), "{good:?}: {ran:?}");
    }
    let ran = verify(["-verify_hostname", "chat.example.com"]);
    assert!(ran.status != 0, "{ran:?}");
    let shown = daemon.json(&["tls"])["certificate"].clone();
    assert_eq!(shown["names"], serde_json::json!(["chat.example.org", "192.0.2.7"]));
}

/// A folder as certbot leaves one for a certificate.
fn lineage(setup: &Setup, name: &str, certificate: &Certificate) -> PathBuf {
    let folder = setup.folder().join("live").join(name);
    fs::create_dir_all(&folder).expect("our own folder");
    fs::write(folder.join("fullchain.pem"), &certificate.pem).expect("our own folder");
    fs::write(folder.join("privkey.pem"), &certificate.key).expect("our own folder");
    fs::set_permissions(folder.join("privkey.pem"), PermissionsExt::from_mode(0o600)).expect("our own folder");
    folder
}

fn hook(setup: &Setup, ours: &Path, renewed: &Path) -> Ran {
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/certbot/deploy-hook");
    let programs = Path::new(env!("CARGO_BIN_EXE_wschatctl")).parent().expect("a folder");
    let path = std::env::var("PATH").expect("a path");
    let mut command = setup.command(hook);
    command
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("WSCHAT_SOCKET", setup.control_socket())
        .env("WSCHAT_LINEAGE", ours)
        .env("WSCHAT_TLS_FOLDER", setup.folder().join("tls"))
        .env("WSCHAT_GROUP", nix::unistd::getegid().to_string())
        .env("RENEWED_LINEAGE", renewed);
    Ran::of(&mut command)
}

#[test]
fn certbots_hook_has_a_renewed_certificate_taken_over() {
    let setup = Setup::new(&format!(
        "{TLS}[tls]\ncertificate = \"FOLDER/tls/fullchain.pem\"\nkey = \"FOLDER/tls/privkey.pem\"\n"
    ));
    let (first, second) = (Certificate::for_name("chat.example.org"), Certificate::for_name("chat.example.org"));
    let ours = lineage(&setup, "chat.example.org", &first);
    let other = lineage(&setup, "www.example.org", &second);
    // Before it runs: the files are there for its start.
    let ran = hook(&setup, &ours, &ours);
    assert_eq!(ran.status, 0, "{ran:?}");
    let mode = |name: &str| fs::metadata(setup.folder().join(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("tls"), mode("tls/fullchain.pem"), mode("tls/privkey.pem")), (0o750, 0o644, 0o640));
    let daemon = setup.start();
    let mut ann = daemon.chat("ann");
    let shown = || Stream::tls(daemon.address()).fingerprint();
    assert_eq!(shown(), first.fingerprint);

    let ran = hook(&daemon, &ours, &other);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "another certificate's renewal is not ours");
    assert_eq!(shown(), first.fingerprint);
    lineage(&daemon, "chat.example.org", &second);
    let ran = hook(&daemon, &ours, &ours);
    assert!(ran.status == 0 && ran.stdout.contains("a new certificate is in force"), "{ran:?}");
    assert_eq!(shown(), second.fingerprint);
    ann.say("still here");

    // What cannot be used is refused, which certbot tells its operator, and the old one stays.
    fs::write(ours.join("privkey.pem"), &first.key).expect("our own folder");
    let ran = hook(&daemon, &ours, &ours);
    assert!(ran.status == 78 && ran.stderr.contains("nothing has changed"), "{ran:?}");
    assert_eq!(shown(), second.fingerprint);
    let left: Vec<_> = fs::read_dir(daemon.folder().join("tls")).expect("our own").collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// The sample of a crontab and other commands name flags that there are.
#[test]
fn the_nightly_backup_is_a_command_line() {
    let daemon = Setup::new(PLAIN).start();
    let line = operating("## Backup and restore", "sh").remove(0);
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "backup", _, force] = words[..] else { panic!("{line}") };
    for _ in 0..2 {
        let ran = daemon.ctl(&["backup", "wschat.db", force]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    }
}
