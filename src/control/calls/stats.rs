//! The daemon's numbers.

use super::{Desk, Trouble};
use crate::control::protocol as api;
use crate::control::wire::Parameters;
use crate::metrics::{Format, gather};

impl Desk<'_> {
    pub(super) async fn stats(&self, mut with: Parameters) -> Result<api::Stats, Trouble> {
        let text: bool = with.take("openmetrics")?.unwrap_or(false);
        with.end()?;
        let metrics = gather(self.admin).await?;
        Ok(match text {
            true => api::Stats { metrics: Vec::new(), openmetrics: Some(Format::OpenMetrics.write(&metrics)) },
            false => api::Stats { metrics, openmetrics: None },
        })
    }
}
