//! Plots: bars of several kinds on each other, over time.

use core::fmt::Write;

/// The plot's own measures; it is stretched to what there is room for.
const WIDE: f64 = 1000.0;
const HIGH: f64 = 180.0;

/// Bars on each other as SVG: for each moment how many of each kind. The kinds have the classes `k0` to `k5`, by `colours`. `label` says what it shows to who does not
/// see it, and is HTML.
pub fn bars<const N: usize>(moments: &[[u64; N]], colours: [u8; N], label: &str) -> String {
    let highest = moments.iter().map(|kinds| kinds.iter().sum::<u64>()).max().unwrap_or(0).max(1) as f64;
    let step = WIDE / moments.len().max(1) as f64;
    // A gap between bars, where they are wide enough for one.
    let wide = if step > 6.0 { step - 1.5 } else { step };
    let mut paths: [String; N] = core::array::from_fn(|_| String::new());
    for (n, kinds) in moments.iter().enumerate() {
        let mut below = 0;
        for (kind, path) in kinds.iter().zip(&mut paths).filter(|(kind, _)| **kind > 0) {
            let high = |n: u64| HIGH * n as f64 / highest;
            let (x, y) = (n as f64 * step, HIGH - high(below + kind));
            _ = write!(path, "M{x:.2} {y:.2}h{wide:.2}v{:.2}h-{wide:.2}z", high(*kind));
            below += kind;
        }
    }
    let paths = colours.iter().zip(&paths).filter(|(_, path)| !path.is_empty());
    let paths: String = paths.map(|(k, path)| format!("<path class=\"k{k}\" d=\"{path}\"/>")).collect();
    let view = format!("viewBox=\"0 0 {WIDE} {HIGH}\" preserveAspectRatio=\"none\"");
    format!("<svg class=\"big\" {view} role=\"img\" aria-label=\"{label}\">{paths}</svg>")
}

/// A bar beside a number: so many hundredths of the whole.
pub fn share(hundredths: f64) -> String {
    let wide = hundredths.clamp(0.0, 100.0);
    format!(
        "<svg class=\"bar\" viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"k0\" width=\"{wide:.2}\" height=\"8\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_each_other_and_the_highest_fills_the_plot() {
        let svg = bars(&[[1, 1], [0, 4]], [0, 3], "x");
        // A quarter of the height on the ground, and another on it; then the second kind over all of it.
        assert!(svg.contains(r#"class="k0" d="M0.00 135.00h498.50v45.00h-498.50z""#), "{svg}");
        assert!(svg.contains(r#"class="k3" d="M0.00 90.00h498.50v45.00h-498.50zM500.00 0.00h498.50v180.00h-498.50z""#));
        assert_eq!(bars(&[], [0, 1], "x").matches("<path").count(), 0);
        assert_eq!(bars(&[[0, 0]], [0, 1], "x").matches("<path").count(), 0);
        assert!(share(250.0).contains("width=\"100.00\""));
    }
}
