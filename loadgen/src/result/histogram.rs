//! [`Times`] in JSON: a few figures to read, and the whole histogram as HDR tools read it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer as HdrDeserializer, Serializer as _, V2DeflateSerializer},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use crate::stats::Times;

/// Times of one kind, in microseconds; the figures are 0 when there are none.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "Times"))]
pub(super) struct TimesRecord {
    /// How many.
    count: u64,
    /// The shortest.
    min_us: f64,
    /// Their mean, by the middles of the histogram's bins.
    mean_us: f64,
    /// The 50th percentile.
    p50_us: f64,
    /// The 90th percentile.
    p90_us: f64,
    /// The 99th percentile.
    p99_us: f64,
    /// The 99.9th percentile.
    p999_us: f64,
    /// The 99.99th percentile.
    p9999_us: f64,
    /// The longest; 10 minutes stands for that and more.
    max_us: f64,
    /// All of them: an HdrHistogram of nanoseconds, V2 compressed, base64, as in its log files.
    /// When a result is read this alone counts; the figures above are for the eye.
    hdr: String,
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(self.histogram(), &mut bytes)
            .map_err(|error| S::Error::custom(format!("cannot write a histogram: {error}")))?;
        let at = |quantile| self.at_quantile_us(quantile);
        TimesRecord {
            count: self.count(),
            min_us: self.min_us(),
            mean_us: self.mean_us(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: self.max_us(),
            hdr: STANDARD.encode(bytes),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = TimesRecord::deserialize(deserializer)?;
        let bytes = STANDARD.decode(record.hdr).map_err(D::Error::custom)?;
        let histogram: Histogram<u64> =
            HdrDeserializer::new()
                .deserialize(&mut bytes.as_slice())
                .map_err(|error| D::Error::custom(format!("not a histogram: {error}")))?;
        Self::from_histogram(histogram).map_err(D::Error::custom)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Times {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        TimesRecord::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        TimesRecord::json_schema(generator)
    }
}
