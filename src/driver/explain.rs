//! A verdict in words: one sentence for people, one object for programs. Paths are shown lossily; nothing reads them
//! back.

use super::{Reason, Verdict};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// One sentence, without a line end.
pub fn explain_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Remote(compile) => {
            let sources: Vec<_> =
                compile.sources.iter().map(|s| format!("{} ({})", lossy(&s.path), s.language.name())).collect();
            format!("remote: it compiles {} to {}", sources.join(", "), compile.product.name())
        }
        Verdict::Local(Reason { cause, detail }) => {
            let detail = detail.as_deref().map(|bytes| format!(": {}", lossy(bytes))).unwrap_or_default();
            format!("local ({}): {}{detail}", cause.name(), cause.sentence())
        }
    }
}

/// `{"verdict": "remote", "product", "sources": [{"path", "language"}], "output"}` or
/// `{"verdict": "local", "reason", "detail", "sentence"}`; `output` and `detail` may be null.
pub fn explain_json(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Remote(compile) => json!({
            "verdict": "remote",
            "product": compile.product.name(),
            "sources": compile.sources.iter()
                .map(|source| json!({"path": lossy(&source.path), "language": source.language.name()}))
                .collect::<Vec<_>>(),
            "output": compile.output.as_deref().map(lossy),
        }),
        Verdict::Local(reason) => json!({
            "verdict": "local",
            "reason": reason.name(),
            "detail": reason.detail.as_deref().map(lossy),
            "sentence": reason.cause.sentence(),
        }),
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        explain_json(self).serialize(serializer)
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
