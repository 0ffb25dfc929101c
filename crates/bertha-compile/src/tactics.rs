//! The kernels that could run each step of a lowered graph, and the one that does.
//!
//! Every target fills a [`TacticTable`]; its text and its JSON are what the compiler's log shows of kernels.

use std::fmt;

use serde::{Serialize, Serializer};

/// A kernel that can run a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tactic {
    /// The kernel's name: tier or architecture, type, function, tile.
    pub kernel: String,
    /// Seconds of one call; none where it was not timed.
    #[serde(rename = "microseconds", serialize_with = "as_microseconds")]
    pub seconds: Option<f64>,
    /// Whether the time is a model's estimate instead of a measurement.
    pub estimate: bool,
    /// Whether it is the one that runs.
    pub chosen: bool,
    /// What to know of it, such as how to get it or why it was not timed; may be empty.
    pub note: String,
}

/// A step, told once for all nodes that are alike, and the kernels that can run it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepTactics {
    /// What the step computes ([`describe_step`](crate::describe_step)).
    pub step: String,
    /// The nodes that it stands for, in order.
    pub nodes: Vec<String>,
    /// Floating-point operations of one call; 0 where it multiplies nothing.
    pub flops: f64,
    /// The chosen kernel and its alternatives.
    pub tactics: Vec<Tactic>,
}

/// The kernels of all steps, for one target and one batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TacticTable {
    /// The instruction-set tier or GPU architecture.
    pub target: String,
    /// What the times are for: sequences, tokens, threads.
    pub batch: String,
    /// In order of their first node.
    pub steps: Vec<StepTactics>,
}

fn as_microseconds<S: Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    seconds.map(|seconds| seconds * 1e6).serialize(serializer)
}

impl StepTactics {
    /// The chosen kernel first, then the others by time, those without one last.
    fn in_order(&self) -> Vec<&Tactic> {
        let mut tactics: Vec<&Tactic> = self.tactics.iter().collect();
        let time = |tactic: &Tactic| tactic.seconds.unwrap_or(f64::INFINITY);
        tactics.sort_by(|a, b| b.chosen.cmp(&a.chosen).then(time(a).total_cmp(&time(b))));
        tactics
    }

    fn rate(&self, tactic: &Tactic) -> String {
        match tactic.seconds {
            Some(seconds) if self.flops > 0.0 && seconds > 0.0 => {
                format!("{:.1}", self.flops / seconds / 1e9)
            }
            _ => "-".into(),
        }
    }
}

impl Tactic {
    fn time(&self) -> String {
        let tilde = if self.estimate { "~" } else { "" };
        self.seconds.map_or_else(|| "-".into(), |seconds| format!("{tilde}{:.1}", seconds * 1e6))
    }
}

/// Cells of a line; the first five line up.
type Line = [String; 6];

impl fmt::Display for TacticTable {
    /// A table with a line for each kernel: the step and how many nodes it stands for, microseconds, rate, a mark
    /// for the chosen one, name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let estimated = self.steps.iter().flat_map(|step| &step.tactics).any(|tactic| tactic.estimate);
        let how = if estimated { "~ is estimated" } else { "of several runs the fastest" };
        writeln!(f, "kernels for {}, {} (> is chosen; {how}):", self.target, self.batch)?;
        let mut lines: Vec<Line> =
            vec![["step", "nodes", "us", "GFLOP/s", " ", "kernel"].map(ToOwned::to_owned)];
        for step in &self.steps {
            for (index, tactic) in step.in_order().into_iter().enumerate() {
                let (what, nodes) = match index {
                    0 => (step.step.clone(), step.nodes.len().to_string()),
                    _ => Default::default(),
                };
                let mark = if tactic.chosen { ">" } else { " " };
                lines.push([
                    what,
                    nodes,
                    tactic.time(),
                    step.rate(tactic),
                    mark.to_owned(),
                    tactic.kernel.clone(),
                ]);
                if !tactic.note.is_empty()
                    && let Some(line) = lines.last_mut()
                {
                    line[5] = format!("{} ({})", tactic.kernel, tactic.note);
                }
            }
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let [what, nodes, time, rate] = [0, 1, 2, 3].map(width);
        for line in &lines {
            let text = format!(
                "  {:what$}  {:>nodes$}  {:>time$}  {:>rate$}  {}  {}",
                line[0], line[1], line[2], line[3], line[4], line[5]
            );
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tactic(kernel: &str, seconds: Option<f64>, chosen: bool, note: &str) -> Tactic {
        Tactic { kernel: kernel.into(), seconds, estimate: false, chosen, note: note.into() }
    }

    fn table() -> TacticTable {
        let linear = StepTactics {
            step: "linear 768x2304 + bias".into(),
            nodes: vec!["a".into(), "b".into()],
            flops: 4e8,
            tactics: vec![
                tactic("slow", Some(4e-3), false, ""),
                tactic("unknown", None, false, "not timed: too large"),
                tactic("other", Some(1e-3), false, "--precision bf16"),
                tactic("used", Some(2e-3), true, ""),
            ],
        };
        let pool = StepTactics {
            step: "pool, mean".into(),
            nodes: vec!["p".into()],
            flops: 0.0,
            tactics: vec![tactic("pool", Some(1.25e-6), true, "no other")],
        };
        TacticTable {
            target: "avx512".into(),
            batch: "1 sequence of 128 tokens".into(),
            steps: vec![linear, pool],
        }
    }

    #[test]
    fn the_chosen_kernel_comes_first_and_columns_line_up() {
        let text = table().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("kernels for avx512, 1 sequence of 128 tokens (> is chosen"), "{text}");
        let names = ["kernel", "used", "other", "slow", "unknown", "pool"];
        for (line, name) in lines[1..].iter().zip(names) {
            // The kernels' names stand below each other.
            assert_eq!(line.rfind(&format!("  {name}")), lines[1].rfind("  kernel"), "{text}");
        }
        assert!(lines[2].contains("linear 768x2304 + bias      2  2000.0    200.0  >  used"), "{text}");
        assert!(lines[3].ends_with("1000.0    400.0     other (--precision bf16)"), "{text}");
        assert!(lines[5].contains(" -        -     unknown (not timed: too large)"), "{text}");
        assert!(
            lines[6].contains("pool, mean                  1     1.2        -  >  pool (no other)"),
            "{text}"
        );
    }

    #[test]
    fn estimates_are_marked_and_data_hold_microseconds() {
        let mut table = table();
        table.steps[0].tactics[0].estimate = true;
        let text = table.to_string();
        assert!(text.contains("~4000.0") && text.contains("~ is estimated"), "{text}");
        let data = serde_json::to_value(&table).unwrap();
        let first = &data["steps"][0]["tactics"][0];
        assert_eq!((first["microseconds"].as_f64(), first["estimate"].as_bool()), (Some(4000.0), Some(true)));
        assert!(data["steps"][0]["tactics"][1]["microseconds"].is_null());
    }
}
