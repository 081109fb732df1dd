//! The daemon's numbers: gathered when somebody asks, and what Prometheus may read of them, on a
//! listener of its own.
//!
//! What there is stands in `stats::table`. Each scrape asks the hub as an operator would, so the
//! numbers are those of `wschatctl status`; nothing is counted here.

mod gather;
mod manual;
mod process;
mod text;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admin::Admin;
pub use gather::gather;
pub use manual::page;
pub use text::Format;

/// Scrapers at once; one more waits.
const CONNECTIONS: usize = 16;
/// A scraper has this long for everything.
const PATIENCE: Duration = Duration::from_secs(30);
const PATH: &str = "/metrics";

/// Answers scrapers until `stop` is ready.
pub async fn serve(listener: Arc<TcpListener>, admin: Admin, stop: impl Future<Output = ()>) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(listen = %address, "metrics are at http://{address}{PATH}");
    }
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
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(accepted);
    Ok(match gather(&admin).await {
        Ok(metrics) => {
            let mut answer = plain(StatusCode::OK, format.write(&metrics));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
            answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
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
