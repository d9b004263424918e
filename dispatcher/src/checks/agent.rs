//! What an agent on a backend's host says: HAProxy's `agent-check`, a line of words.

/// Longest line.
pub(super) const LINE: usize = 1024;

/// Whether the backend is to have connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admin {
    /// Whatever there is.
    Ready,
    /// Its own sessions only.
    Drain,
    /// Nothing.
    Maint,
}

/// What it has said, all in all: what a line does not speak of holds on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Says {
    /// Hundredths of its weight.
    pub percent: Option<u16>,
    /// Most connections.
    pub max_connections: Option<u32>,
    /// `ready`, `drain` or `maint`.
    pub admin: Option<Admin>,
    /// `up`, or `down`, `fail` or `stopped`, and why.
    pub down: Option<String>,
}

impl Says {
    /// Takes a line; false when it is none, and nothing has changed.
    pub fn hear(&mut self, line: &str) -> bool {
        let (words, why) = match line.split_once('#') {
            Some((words, why)) => (words, Some(why)),
            None => (line, None),
        };
        let mut next = self.clone();
        let mut any = false;
        for word in words.split([' ', '\t', ',', '\r', '\n']).filter(|word| !word.is_empty()) {
            any = true;
            let number =
                |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
            match word {
                "ready" => next.admin = Some(Admin::Ready),
                "drain" => next.admin = Some(Admin::Drain),
                "maint" => next.admin = Some(Admin::Maint),
                "up" => next.down = None,
                "down" | "fail" | "failed" | "stopped" => {
                    let why: String = why.unwrap_or("").trim().chars().filter(|c| !c.is_control()).take(100).collect();
                    next.down = Some(if why.is_empty() { word.to_string() } else { format!("{word}: {why}") });
                }
                _ => match (word.strip_suffix('%').and_then(number), word.strip_prefix("maxconn:").and_then(number)) {
                    (Some(percent), _) => next.percent = Some(percent.min(1000) as u16),
                    (_, Some(most)) => next.max_connections = Some(most),
                    _ => return false,
                },
            }
        }
        if any {
            *self = next;
        }
        any
    }
}

impl core::fmt::Display for Says {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let admin = self.admin.map(|admin| match admin {
            Admin::Ready => "ready".to_string(),
            Admin::Drain => "drain".to_string(),
            Admin::Maint => "maint".to_string(),
        });
        let percent = self.percent.map(|n| format!("{n}%"));
        let most = self.max_connections.map(|n| format!("maxconn:{n}"));
        let all: Vec<String> = [admin, self.down.clone(), percent, most].into_iter().flatten().collect();
        f.write_str(if all.is_empty() { "nothing" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_haproxy_reads_them_and_what_they_do_not_speak_of_holds_on() {
        let mut says = Says::default();
        assert!(says.hear("75%\r\n") && says.percent == Some(75));
        assert!(says.hear("up, drain maxconn:30\t"));
        assert_eq!(says, Says { percent: Some(75), max_connections: Some(30), admin: Some(Admin::Drain), down: None });
        assert!(says.hear("down#no disk, at all"));
        assert_eq!(says.to_string(), "drain, down: no disk, at all, 75%, maxconn:30");
        let before = says.clone();
        for wrong in ["", "\n", "0x10%", "%", "maxconn:", "-5%", "quickly", "ready quickly"] {
            assert!(!says.hear(wrong) && says == before, "{wrong}");
        }
        assert!(says.hear("ready up 100%"));
        assert_eq!((says.admin, says.down, says.percent), (Some(Admin::Ready), None, Some(100)));
    }
}
