//! Figures as charts: bars that can be read on a light page and on a dark one.

use crate::figure::{Figure, Target, number};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// A chart: a file's name, a title, the part and unit of its figures, and what their measures and cases have in them.
struct Chart {
    file: &'static str,
    title: &'static str,
    part: &'static str,
    unit: &'static str,
    wanted: fn(&Figure) -> bool,
}

const CHARTS: [Chart; 10] = [
    Chart {
        file: "forward.svg",
        title: "A frame of a known flow, ns",
        part: "forward",
        unit: "ns",
        wanted: |f| f.measure.contains("loop") && !f.measure.contains("above"),
    },
    Chart {
        file: "connect.svg",
        title: "Whole connections, million a second, one core",
        part: "connect",
        unit: "million/s",
        wanted: |_| true,
    },
    Chart { file: "parse.svg", title: "Reading a hello, ns", part: "parse", unit: "ns", wanted: |_| true },
    Chart {
        file: "table.svg",
        title: "Lookups, ns",
        part: "table",
        unit: "ns",
        wanted: |f| !f.measure.contains("insert") && !f.measure.contains("beside"),
    },
    Chart {
        file: "table-writer.svg",
        title: "Lookups beside a writer, ns",
        part: "table",
        unit: "ns",
        wanted: |f| f.measure.contains("beside"),
    },
    Chart { file: "balance.svg", title: "A choice, ns", part: "balance", unit: "ns", wanted: |_| true },
    Chart {
        file: "latency.svg",
        title: "A frame's time at half load, us",
        part: "latency",
        unit: "us",
        wanted: |f| !f.measure.contains("99.9"),
    },
    Chart {
        file: "live-connections.svg",
        title: "CPU seconds for 1000 resumed connections",
        part: "live",
        unit: "s",
        wanted: |f| f.measure.contains("1000"),
    },
    Chart {
        file: "live-gigabyte.svg",
        title: "CPU seconds for a gigabyte",
        part: "live",
        unit: "s",
        wanted: |f| f.measure.contains("GB"),
    },
    Chart { file: "workers.svg", title: "A frame, ns", part: "workers", unit: "ns", wanted: |_| true },
];

/// Writes the charts that there are figures for into a directory.
pub fn write(figures: &[Figure], directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    for chart in &CHARTS {
        let of = |f: &&Figure| f.part == chart.part && f.unit == chart.unit && (chart.wanted)(f);
        let some: Vec<&Figure> = figures.iter().filter(of).collect();
        if !some.is_empty() {
            let path = directory.join(chart.file);
            std::fs::write(&path, draw(chart.title, &some)).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

const WIDTH: usize = 760;
const LABELS: usize = 250;
const BAR: usize = 300;
const LINE: usize = 20;

fn draw(title: &str, figures: &[&Figure]) -> String {
    let most = figures.iter().map(|f| f.value.max(goal(f).unwrap_or(0.0))).fold(f64::MIN_POSITIVE, f64::max);
    let mut measures: Vec<&str> = vec![];
    for f in figures {
        if !measures.contains(&f.measure.as_str()) {
            measures.push(&f.measure);
        }
    }
    let (mut body, mut y, mut above) = (String::new(), 34, "");
    for f in figures {
        if f.case != above {
            above = &f.case;
            y += 10;
            line(&mut body, format_args!(r#"<text x="8" y="{}" class="case">{}</text>"#, y + 14, escaped(&f.case)));
            y += LINE;
        }
        let color = measures.iter().position(|m| *m == f.measure).unwrap_or(0) % 6;
        let width = (f.value / most * BAR as f64).max(1.0);
        line(
            &mut body,
            format_args!(
                r#"<text x="{}" y="{}" text-anchor="end">{}</text><rect x="{LABELS}" y="{}" width="{width:.1}" height="14" class="c{color}"/><text x="{:.1}" y="{}">{}</text>"#,
                LABELS - 8,
                y + 13,
                escaped(&f.measure),
                y + 2,
                LABELS as f64 + width + 6.0,
                y + 13,
                number(f.value),
            ),
        );
        if let Some(goal) = goal(f) {
            let x = LABELS as f64 + goal / most * BAR as f64;
            line(
                &mut body,
                format_args!(r#"<line x1="{x:.1}" x2="{x:.1}" y1="{y}" y2="{}" class="goal"/>"#, y + LINE - 2),
            );
        }
        y += LINE;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{title}">
<style>
text {{ font: 13px sans-serif; fill: #24292f; }} .title {{ font-size: 15px; font-weight: bold; }} .case {{ font-weight: bold; }}
.c0 {{ fill: #2f6f9f; }} .c1 {{ fill: #8a9ba8; }} .c2 {{ fill: #b8742a; }} .c3 {{ fill: #d9b384; }} .c4 {{ fill: #5a7d4d; }} .c5 {{ fill: #a9c19e; }}
.goal {{ stroke: #b3261e; stroke-width: 2; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #d0d7de; }} .goal {{ stroke: #ff7b72; }} }}
</style>
<text x="8" y="22" class="title">{title}</text>
{body}</svg>
"#,
        height = y + 12,
        title = escaped(title),
    )
}

fn line(body: &mut String, what: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = writeln!(body, "{what}");
}

fn goal(f: &Figure) -> Option<f64> {
    f.target.map(|t| match t {
        Target::AtMost(n) | Target::AtLeast(n) => n,
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_values_are_large_and_names_cannot_break_the_drawing() {
        let figure = |measure: &str, value| Figure {
            part: "table".into(),
            case: "a <b> & c".into(),
            measure: measure.into(),
            value,
            unit: "ns".into(),
            target: None,
            met: None,
        };
        let (one, two) = (figure("hit", 50.0), figure("RwLock<HashMap>, hit", 100.0));
        let drawn = draw("Lookups", &[&one, &two]);
        assert!(drawn.contains(r#"width="150.0""#) && drawn.contains(r#"width="300.0""#));
        assert!(drawn.contains("a &lt;b&gt; &amp; c") && drawn.contains("RwLock&lt;HashMap&gt;"));
    }
}
