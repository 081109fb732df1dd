//! The chat page and its assets, embedded in the binary.

use bytes::Bytes;

/// One file of the page.
#[derive(Clone, Debug)]
pub struct Asset {
    pub content_type: &'static str,
    pub body: Bytes,
    /// Changes with the content (RFC 9110, section 8.8.3).
    pub etag: String,
}

/// The page with its assets by name, ready to be sent.
#[derive(Clone, Debug)]
pub struct Page {
    pub index: Asset,
    pub assets: Vec<(&'static str, Asset)>,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($name:literal, $path:literal, $content_type:expr;)*) => {
        &[$(($name, include_bytes!(concat!("../../", $path)), $content_type)),*]
    };
}

const ASSETS: &[(&str, &[u8], &str)] = assets! {
    "chat.css", "page/chat.css", CSS;
    "chat.js", "page/chat.js", SCRIPT;
    "en.js", "page/en.js", SCRIPT;
    "favicon.svg", "page/favicon.svg", SVG;
    "i18n.js", "page/i18n.js", SCRIPT;
    "log.js", "page/log.js", SCRIPT;
    "memory.js", "page/memory.js", SCRIPT;
    "text.js", "page/text.js", SCRIPT;
    "wschat.js", "clients/js/wschat.js", SCRIPT;
    "zh-CN.js", "page/zh-CN.js", SCRIPT;
};

/// Where the page's own text names the JSON dialect's path.
const JSON_PATH: &str = "{{json_path}}";

impl Page {
    /// The page for a daemon that speaks the JSON dialect at `json_path`.
    pub fn new(json_path: &str) -> Self {
        let index = include_str!("../../page/index.html").replace(JSON_PATH, &escape(json_path));
        Page {
            index: asset(HTML, index.into_bytes().into()),
            assets: ASSETS.iter().map(|(name, body, kind)| (*name, asset(kind, Bytes::from_static(body)))).collect(),
        }
    }

    pub fn asset(&self, name: &str) -> Option<&Asset> {
        self.assets.iter().find(|(n, _)| *n == name).map(|(_, asset)| asset)
    }
}

fn asset(content_type: &'static str, body: Bytes) -> Asset {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    let etag = digest.as_ref()[..8].iter().map(|b| format!("{b:02x}")).collect::<String>();
    Asset { content_type, body, etag: format!("\"{etag}\"") }
}

/// For an attribute's value in double quotes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}
