//! The table: columns, widths and head lines of nccl-tests, so that its parsers read ours.

use super::measure::{Case, Side};
use std::fmt::Write;

/// What the columns depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub(crate) cpu_time: bool,
    pub(crate) per_iter: bool,
    pub(crate) timestamps: bool,
}

/// One line of results.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) bytes: u64,
    pub(crate) count: usize,
    pub(crate) out_of_place: Side,
    /// `None` for operations that have no in-place form.
    pub(crate) in_place: Option<Side>,
}

impl Row {
    /// The operator's name as printed.
    pub(crate) fn op_name(&self) -> &'static str {
        self.case.op.map_or("none", |op| op.name())
    }

    /// The root, where one has a meaning.
    pub(crate) fn root(&self) -> Option<u32> {
        self.case.target.has_root().then_some(self.case.root)
    }
}

impl Columns {
    /// The three head lines above the rows.
    pub(crate) fn head(self) -> String {
        let time = if self.cpu_time { "cputime" } else { "time" };
        let mut side = format!("  {time:>7}  {:>6}  {:>6}  {:>6}", "algbw", "busbw", "#wrong");
        let mut units = format!("  {:>7}  {:>6}  {:>6}  {:>6}", "(us)", "(GB/s)", "(GB/s)", "");
        if self.per_iter {
            let _ = write!(side, "  {:>7}  {:>7}  {:>7}  {:>6}", "i_min", "i_max", "i_p99", "i_cv%");
            let _ = write!(units, "  {:>7}  {:>7}  {:>7}  {:>6}", "(us)", "(us)", "(us)", "(%)");
        }
        let width = side.len();
        let stamp = if self.timestamps { "            timestamp" } else { "" };
        let lines = [
            format!(
                "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}{:^width$}{:^width$}",
                "", "", "", "", "", "out-of-place", "in-place"
            ),
            format!(
                "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}{side}{side}{stamp}",
                "size", "count", "type", "redop", "root"
            ),
            format!("# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}{units}{units}", "(B)", "(elements)", "", "", ""),
        ];
        lines.iter().fold(String::from("#\n"), |head, line| head + line.trim_end() + "\n")
    }

    /// One row; `stamp` is the time of day, printed where it was asked for.
    pub(crate) fn row(self, row: &Row, stamp: &str) -> String {
        let root = row.root().map_or(-1, i64::from);
        let (op, dtype) = (row.op_name(), row.case.dtype.name());
        let mut line = format!("{:>12}  {:>12}  {dtype:>8}  {op:>6}  {root:>6}", row.bytes, row.count);
        self.side(&mut line, Some(&row.out_of_place));
        self.side(&mut line, row.in_place.as_ref());
        if self.timestamps {
            let _ = write!(line, "  {stamp}");
        }
        line
    }

    fn side(self, line: &mut String, side: Option<&Side>) {
        let cell =
            |value: Option<f64>, width| value.map_or(format!("{:>width$}", "N/A"), |v| number(v, width));
        let time = cell(side.map(|s| s.time_us), 7);
        let (alg, bus) = (cell(side.map(|s| s.alg_bw), 6), cell(side.map(|s| s.bus_bw), 6));
        let wrong = side.and_then(|s| s.wrong).map_or("N/A".to_owned(), |wrong| wrong.to_string());
        let _ = write!(line, "  {time}  {alg}  {bus}  {wrong:>6}");
        if self.per_iter {
            let figures = side.and_then(|s| s.per_iter.as_ref());
            for value in [figures.map(|f| f.min_us), figures.map(|f| f.max_us), figures.map(|f| f.p99_us)] {
                let _ = write!(line, "  {}", cell(value, 7));
            }
            let _ = write!(line, "  {}", cell(figures.map(|f| f.cv_pct), 6));
        }
    }
}

/// A number with two decimals, or as many as leave it within `width`.
fn number(value: f64, width: usize) -> String {
    let fits = |decimals: usize| {
        let text = format!("{value:width$.decimals$}");
        (text.len() <= width).then_some(text)
    };
    fits(2).or_else(|| fits(1)).unwrap_or_else(|| format!("{value:width$.0}"))
}

/// The lines below the rows. `bandwidth_ok` is `None` when no least bandwidth was asked for.
pub(crate) fn foot(
    name: &str,
    wrong_rows: u64,
    bus_bw: f64,
    bandwidth_ok: Option<bool>,
    memory: Option<&str>,
) -> String {
    let verdict = |ok: bool| if ok { "OK" } else { "FAILED" };
    let mut text = format!("# Out of bounds values : {wrong_rows} {}\n", verdict(wrong_rows == 0));
    let bandwidth = bandwidth_ok.map_or(String::new(), |ok| format!(" {}", verdict(ok)));
    let _ = writeln!(text, "# Avg bus bandwidth    : {bus_bw:.6}{bandwidth}");
    let _ = writeln!(text, "#\n# Collective test concluded: {name}");
    if let Some(memory) = memory {
        let _ = writeln!(text, "{memory}");
    }
    text + "#"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchOp, Target};
    use crate::bench::stats::PerIteration;
    use ronde::{DType, ReduceOp};

    fn side(time_us: f64, wrong: Option<u64>) -> Side {
        Side { time_us, alg_bw: 1.25, bus_bw: 1.875, wrong, per_iter: None, contributors: 4 }
    }

    fn row() -> Row {
        let case = Case {
            target: Target::AllReduce,
            dtype: DType::F32,
            op: Some(BenchOp::Builtin(ReduceOp::Sum)),
            root: 0,
        };
        let (out_of_place, in_place) = (side(12.164, Some(0)), Some(side(123_456.7, Some(3))));
        Row { case, bytes: 1_048_576, count: 262_144, out_of_place, in_place }
    }

    const PLAIN: Columns = Columns { cpu_time: false, per_iter: false, timestamps: false };

    #[test]
    fn golden_table() {
        let head = "\
#
#                                                             out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
";
        assert_eq!(PLAIN.head(), head);
        let line = "     1048576        262144       f32     sum      -1    12.16    1.25    1.88       0   123457    1.25    1.88       3";
        assert_eq!(PLAIN.row(&row(), ""), line);
    }

    #[test]
    fn what_was_not_measured_is_na() {
        let mut row = row();
        row.in_place = None;
        row.out_of_place.wrong = None;
        row.case = Case { target: Target::Broadcast, op: None, root: 2, ..row.case };
        let line = "     1048576        262144       f32    none       2    12.16    1.25    1.88     N/A      N/A     N/A     N/A     N/A";
        assert_eq!(PLAIN.row(&row, ""), line);
    }

    #[test]
    fn more_columns_on_demand() {
        let columns = Columns { cpu_time: true, per_iter: true, timestamps: true };
        let head = columns.head();
        assert!(
            head.contains("cputime   algbw   busbw  #wrong    i_min    i_max    i_p99   i_cv%"),
            "{head}"
        );
        let mut row = row();
        row.out_of_place.per_iter = PerIteration::of(vec![1.0, 2.0, 3.0]);
        let line = columns.row(&row, "2026-01-02 03:04:05");
        assert!(line.contains("       0     1.00     3.00     2.98   50.00 "), "{line}");
        assert!(line.ends_with("     N/A  2026-01-02 03:04:05"), "{line}");
    }

    #[test]
    fn numbers_keep_their_width() {
        let cases = [(0.04, "   0.04"), (9999.994, "9999.99"), (12345.67, "12345.7"), (1e9, "1000000000")];
        for (value, text) in cases {
            assert_eq!(number(value, 7), text);
        }
    }

    #[test]
    fn golden_foot() {
        let text = foot("all_reduce", 0, 1.5, None, None);
        assert_eq!(
            text,
            "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 1.500000\n#\n# Collective test concluded: all_reduce\n#"
        );
        let text = foot("reduce", 2, 1.5, Some(false), Some("# Memory"));
        assert!(
            text.starts_with("# Out of bounds values : 2 FAILED\n# Avg bus bandwidth    : 1.500000 FAILED\n")
        );
        assert!(text.ends_with("# Memory\n#"));
    }
}
