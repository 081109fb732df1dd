//! What Prometheus may read: the daemon's numbers as OpenMetrics text, on a listener of its own.
//!
//! Names and units follow Prometheus' conventions. Each scrape asks the hub as an operator would, so
//! the numbers are those of `wschatctl status`; nothing is counted here.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info as InfoMetric;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admin::{Admin, AdminError, Counts, Info};
use crate::log::Health;
use crate::state::Phase;

/// Scrapers at once; one more waits.
const CONNECTIONS: usize = 16;
/// A scraper has this long for everything.
const PATIENCE: Duration = Duration::from_secs(30);
const PATH: &str = "/metrics";

/// Binds the metrics listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let wrong = |e: io::Error| io::Error::new(e.kind(), format!("metrics.listen: cannot listen on {address}: {e}"));
    let socket = std::net::TcpListener::bind(address).map_err(wrong)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    tracing::info!(listen = %address, "metrics are at http://{address}{PATH}");
    TcpListener::from_std(socket)
}

/// Answers scrapers until `stop` is ready.
pub async fn serve(listener: TcpListener, admin: Admin, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::pin!(stop);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => return,
        };
        let Ok((socket, _)) = accepted else {
            // Out of descriptors, most likely: give it a moment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, admin.clone()));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(socket), service);
            // A scraper that goes away, or is too slow, will come again.
            let _ = timeout(PATIENCE, connection).await;
            drop(place);
        });
    }
}

async fn answer(request: Request<Incoming>, admin: Admin) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != PATH {
        return Ok(plain(StatusCode::NOT_FOUND, "The metrics are at /metrics.\n".into()));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are answered here.\n".into());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(answer);
    }
    Ok(match scrape(&admin).await {
        Ok(text) => {
            let mut answer = plain(StatusCode::OK, text);
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("No numbers at the moment: {error}.\n")),
    })
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// The numbers as text.
async fn scrape(admin: &Admin) -> Result<String, AdminError> {
    let (counts, info) = tokio::join!(admin.counts(), admin.info());
    let numbers = Numbers { phase: admin.phase(), counts: counts?, info: info? };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(numbers));
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    Ok(text)
}

#[derive(Debug)]
struct Numbers {
    phase: Phase,
    counts: Counts,
    info: Info,
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Numbers { phase, counts, info } = self;
        let out = &mut encoder;
        let version = InfoMetric::new(vec![("version", info.version)]);
        put(out, "wschat", "The running daemon.", None, &version)?;
        let since = info.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        gauge(out, "wschat_start_time", "When the daemon started, since 1970.", Some(Unit::Seconds), since)?;
        let serving = whole(usize::from(*phase == Phase::Serving));
        gauge(
            out,
            "wschat_serving",
            "1 while newcomers are let in, 0 while starting, draining or stopping.",
            None,
            serving,
        )?;
        gauge(out, "wschat_clients", "Open WebSockets.", None, whole(counts.clients))?;
        gauge(out, "wschat_clients_max", "The most WebSockets that are let in.", None, whole(info.clients_max))?;
        gauge(out, "wschat_users", "Users who are here.", None, whole(counts.users))?;
        gauge(out, "wschat_rooms", "Open rooms.", None, whole(counts.rooms))?;
        gauge(out, "wschat_bans", "Bans in force.", None, whole(counts.bans))?;
        gauge(out, "wschat_mutes", "Mutes in force.", None, whole(counts.mutes))?;
        if let Some(until) = info.certificate_until {
            let until = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let help = "When the certificate in force ends, since 1970.";
            gauge(out, "wschat_certificate_expiry_time", help, Some(Unit::Seconds), until)?;
        }
        counter(out, "wschat_messages", "Messages that rooms have stored since the start.", counts.messages)?;
        let log = counts.log;
        let healthy = whole(usize::from(counts.health == Health::Good));
        gauge(
            out,
            "wschat_log_healthy",
            "1 while the room log can store, 0 while messages are refused.",
            None,
            healthy,
        )?;
        counter(out, "wschat_log_commits", "Commits of the room log, each of one or more entries.", log.commits)?;
        counter(out, "wschat_log_entries", "Entries that the room log has committed.", log.entries)?;
        counter(out, "wschat_log_refused", "Requests refused because the room log could not store.", log.refused)?;
        let waiting = log.waiting as f64;
        gauge(out, "wschat_log_waiting_entries", "Entries that wait to be committed.", None, waiting)?;
        let bytes = log.bytes as f64;
        gauge(out, "wschat_log_size", "The room log on disk.", Some(Unit::Bytes), bytes)
    }
}

fn whole(count: usize) -> f64 {
    count as f64
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
    put(out, name, help, unit.as_ref(), &ConstGauge::new(value))
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    put(out, name, help, None, &ConstCounter::new(value))
}

fn put(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(out.encode_descriptor(name, help, unit, metric.metric_type())?)
}
