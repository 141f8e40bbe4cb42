//! A page of metrics, as far as tests look at it.

/// The samples of a page in the text format of Prometheus.
#[derive(Debug, Clone)]
pub struct Samples(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    /// Reads a page. What is not a sample is passed over.
    pub fn parse(page: &str) -> Self {
        Self(page.lines().filter_map(sample).collect())
    }

    /// The sum of the samples of a name that carry all these labels; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut matching = self.matching(name, labels).map(|sample| sample.value);
        let first = matching.next()?;
        Some(matching.fold(first, |sum, value| sum + value))
    }

    /// The value that one label has, of the first sample of a name that carries all these labels
    /// and has this value.
    pub fn label(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        value: f64,
        label: &str,
    ) -> Option<String> {
        self.matching(name, labels)
            .find(|sample| (sample.value - value).abs() < f64::EPSILON)?
            .labels
            .iter()
            .find(|(key, _)| key == label)
            .map(|(_, value)| value.clone())
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.iter().any(|(k, v)| k == key && v == value))
        })
    }
}

/// One line: `name{key="value",…} 1.5`.
fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
    };
    let labels = labels
        .split("\",")
        .filter_map(|pair| {
            let (key, value) = pair.split_once("=\"")?;
            let value = value.strip_suffix('"').unwrap_or(value);
            Some((key.to_owned(), value.to_owned()))
        })
        .collect();
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_their_labels() {
        let page =
            "# HELP a b\n# TYPE a gauge\na{x=\"1\",y=\"p, q\"} 2\na{x=\"2\",y=\"r\"} 3\nb 4.5\n";
        let samples = Samples::parse(page);
        assert_eq!(samples.sum("a", &[]), Some(5.0));
        assert_eq!(samples.sum("a", &[("x", "2")]), Some(3.0));
        assert_eq!(samples.sum("a", &[("x", "3")]), None);
        assert_eq!(samples.sum("b", &[]), Some(4.5));
        assert_eq!(samples.label("a", &[], 2.0, "y").as_deref(), Some("p, q"));
    }
}
