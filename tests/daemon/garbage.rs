//! What is no TLS, no HTTP, or never finished: ended in time with a proper answer, without a trace.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use crate::support::daemon::TLS;
use crate::support::{Chat, Daemon, Http, Stream, until};

/// So short that a test need not wait long, so long that an honest client of a busy machine is done.
const IMPATIENT: &str = "[timeouts]\ntls = \"2s\"\nrequest = \"2s\"\n";

/// The first half of what a TLS client says first.
fn half_a_hello() -> Vec<u8> {
    let mut record = vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    record.extend([7; 200]);
    record
}

#[test]
fn garbage_instead_of_tls_is_told_so_and_closed() {
    let daemon = Daemon::tls("");
    for garbage in
        [&b"\0\0\0\0\0\0\0\0\0\0"[..], b"\x80\x2e\x01\x03\x01", b"hello, is there anybody?\r\n", &[255; 5000]]
    {
        let mut stream = Stream::tcp(daemon.address());
        stream.write_all(garbage).unwrap();
        let answer = stream.rest();
        assert!(answer.is_empty() || answer[0] == 21, "nothing but an alert: {answer:?}");
    }
    // What looks like the first byte of TLS and then is not.
    let mut stream = Stream::tcp(daemon.address());
    stream.write_all(b"\x16garbage, garbage, garbage").unwrap();
    assert_eq!(stream.rest()[0], 21, "an alert");
}

#[test]
fn plain_http_at_the_tls_port_is_shown_the_way() {
    let daemon = Daemon::tls("");
    let mut http = Http::new(Stream::tcp(daemon.address()));
    let answer = http.get("/?room=tea");
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://chat.example/?room=tea")));
    http.ends();
    // Without a name there is no way to show.
    let mut http = Http::new(Stream::tcp(daemon.address()));
    http.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(http.answer(false).status, 400);
    http.ends();
    // Nobody is led to where a stranger wants him.
    let mut http = Http::new(Stream::tcp(daemon.address()));
    http.send("GET / HTTP/1.1\r\nHost: evil.example/path?\r\n\r\n");
    assert_eq!(http.answer(false).status, 400);
}

#[test]
fn half_a_handshake_is_ended() {
    let daemon = Daemon::tls(IMPATIENT);
    let mut silent = Stream::tcp(daemon.address());
    let mut half = Stream::tcp(daemon.address());
    half.write_all(&half_a_hello()).unwrap();
    assert_eq!(silent.rest(), b"");
    assert_eq!(half.rest(), b"");
}

#[test]
fn tls_but_no_http_is_a_bad_request() {
    let daemon = Daemon::tls("");
    for garbage in [&b"\0\0\0\0\r\n\r\n"[..], b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n: no name\r\n\r\n", &[0x80; 300]] {
        let mut http = daemon.http();
        http.send(garbage);
        assert_eq!(http.answer(false).status, 400, "{garbage:?}");
        http.ends();
    }
}

#[test]
fn a_head_that_does_not_end_is_late() {
    let daemon = Daemon::tls(IMPATIENT);
    for stream in [daemon.connect(), Stream::tcp(daemon.address())] {
        let tls = matches!(stream, Stream::Tls(_));
        let mut http = Http::new(stream);
        http.send("GET / HTTP/1.1\r\nHost: h\r\nX-Half: ");
        if tls {
            assert_eq!(http.answer(false).status, 408);
        }
        http.ends();
    }
    // One that has been answered and asks nothing more is closed without a word.
    let mut http = daemon.http();
    assert_eq!(http.get("/healthz").status, 200);
    http.ends();
    // Nor is a connection waited for that says nothing at all.
    let mut http = daemon.http();
    assert_eq!(http.answer(false).status, 408);
    http.ends();
}

#[test]
fn a_byte_now_and_then_buys_no_time() {
    let daemon = Daemon::start(&format!("{TLS}[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n{IMPATIENT}"));
    let drip = |mut stream: Stream, bytes: Vec<u8>| {
        let Stream::Tcp(socket) = &stream else { unreachable!() };
        let mut writer = socket.try_clone().unwrap();
        let dripping = thread::spawn(move || {
            for byte in bytes.into_iter().chain(std::iter::repeat(b'x')) {
                // The daemon hangs up: that is what is waited for.
                if writer.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut answer = Vec::new();
        // The last drops fall on a closed socket, so the end may be a reset; the answer comes before.
        let _ = stream.read_to_end(&mut answer);
        drop(stream);
        dripping.join().unwrap();
        answer
    };
    let (tls, plain) = (daemon.address_of(0), daemon.address_of(1));
    let head = || b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ".to_vec();
    thread::scope(|scope| {
        let answer = scope.spawn(|| drip(Stream::tcp(plain), head()));
        scope.spawn(|| drip(Stream::tcp(tls), half_a_hello()));
        scope.spawn(|| drip(Stream::tcp(tls), head()));
        let answer = answer.join().unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    });
}

#[test]
fn hundreds_of_them_disturb_nobody_and_leave_nothing() {
    let daemon = Daemon::start(&format!(
        "{TLS}[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n{IMPATIENT}[limits]\nburst = 1000\n"
    ));
    let (tls, plain) = (daemon.address_of(0), daemon.address_of(1));
    let (mut ann, mut bob) = (daemon.chat("ann"), daemon.chat("bob"));
    ann.say("before");
    bob.hears("before");
    let (open, log) = (daemon.descriptors(), daemon.log());

    let mut strangers = Vec::new();
    for n in 0..400 {
        let (to, bytes) = match n % 8 {
            0 => (tls, half_a_hello()),
            1 => (tls, b"\0garbage".to_vec()),
            2 => (tls, b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec()),
            3 => (tls, Vec::new()),
            4 => (plain, b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec()),
            5 => (plain, b"\0garbage".to_vec()),
            6 => (plain, vec![b'x'; 20_000]),
            _ => (plain, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n".to_vec()),
        };
        let mut stream = Stream::tcp(to);
        // Who is refused at once may be gone before all is written.
        let _ = stream.write_all(&bytes);
        strangers.push(stream);
        if n % 20 == 0 {
            ann.say(&format!("among {n}"));
            bob.hears(&format!("among {n}"));
        }
    }
    // Half of them leave by themselves, without a word; the others are made to.
    strangers.truncate(200);
    for mut stream in strangers {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let head = String::from_utf8_lossy(&answer);
        assert!(head.is_empty() || answer[0] == 21 || head.starts_with("HTTP/1.1 4"), "{head}");
    }
    until("every descriptor is back", || (daemon.descriptors() == open).then_some(()));
    ann.say("after");
    bob.hears("after");
    assert_eq!(daemon.clients(&[]).len(), 2);
    // The audit line of no command is among it: only strangers have been here.
    assert_eq!(daemon.log(), log, "nothing above debug");
    let mut late = Chat::enter(Stream::tls(tls), "late");
    late.say("room for one more");
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let daemon = Daemon::start(&format!(
        "{TLS}[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n[timeouts]\npresence = \"0s\"\n"
    ));
    let mut witness = daemon.chat("witness");
    let (open, log) = (daemon.descriptors(), daemon.log());
    for round in 0..50 {
        let stream = if round % 2 == 0 { daemon.connect() } else { Stream::tcp(daemon.address_of(1)) };
        let mut chat = Chat::enter(stream, &format!("n{round}"));
        chat.say("I will be gone");
        // The socket just closes: no close frame, no close_notify.
    }
    until("they are gone", || (daemon.clients(&[]).len() == 1).then_some(()));
    until("every descriptor is back", || (daemon.descriptors() == open).then_some(()));
    witness.say("alone");
    assert_eq!(daemon.log(), log);
}

#[test]
fn who_asks_and_never_reads_is_ended() {
    let daemon = Daemon::start(&format!("{TLS}[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n{IMPATIENT}"));
    let open = daemon.descriptors();
    let greedy: Vec<Stream> = [daemon.connect(), Stream::tcp(daemon.address_of(1))]
        .into_iter()
        .map(|mut stream| {
            let socket = match &stream {
                Stream::Tcp(socket) => socket,
                Stream::Tls(stream) => &stream.sock,
                Stream::Unix(_) => unreachable!("none is connected to"),
            };
            // Until neither side's buffers take any more.
            socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let requests = b"GET /assets/chat.js HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
            while stream.write_all(&requests).is_ok() {}
            stream
        })
        .collect();
    // Fewer, too: the starter's own question may still have been open when they were counted.
    until("they are ended", || (daemon.descriptors() <= open).then_some(()));
    drop(greedy);
}
