//! The status page: one document, which asks nobody but its own address.

use crate::html::{STYLE, source};

const HTML: &str = include_str!("page/page.html");
const SCRIPT: &str = include_str!("page/page.js");

/// A document, and what a browser is to allow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// With its style and its script.
    pub html: String,
    /// The value of `Content-Security-Policy`.
    pub policy: String,
}

impl Page {
    /// The status page.
    pub fn status() -> Page {
        let html = HTML.replacen("{{style}}", STYLE, 1).replacen("{{script}}", SCRIPT, 1);
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            source(SCRIPT),
            source(STYLE)
        );
        Page { html, policy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_names_no_other_address() {
        let page = Page::status();
        assert!(!page.html.contains("{{"));
        let elsewhere = page.html.replace("http://www.w3.org/2000/svg", "");
        for word in [
            "http:",
            "https:",
            "//cdn",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!elsewhere.contains(word), "{word}");
        }
    }
}
