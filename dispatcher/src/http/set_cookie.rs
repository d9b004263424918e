//! One `Set-Cookie` of a server's (RFC 6265 section 5.2), as far as it says which session begins or ends.

use super::request::LONGEST_VALUE;
use super::words::unquoted;
use crate::pack::packed;
use lb::Identity;

/// What ended before this is over, whatever time it is: servers delete cookies by dates of 1970. The first of January 2020, in seconds since 1970.
const LONG_AGO: i64 = 1_577_836_800;

/// For how long a cookie is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// Until the client forgets its session.
    Session,
    /// So many seconds.
    Seconds(u64),
    /// It is to be forgotten.
    Over,
}

/// What one says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetCookie {
    /// Which; none of an empty value.
    pub identity: Option<Identity>,
    max_age: Option<i64>,
    expires: Option<i64>,
}

impl SetCookie {
    /// Of the field's value, if it sets a cookie of this name. A value that no client sends back is as an empty one.
    pub fn read(value: &[u8], name: &[u8]) -> Option<SetCookie> {
        let mut parts = value.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let pair = parts.next()?;
        let set = pair.strip_prefix(name)?.trim_ascii_start().strip_prefix(b"=")?;
        let set = unquoted(set.trim_ascii_start());
        let whole = (1..=LONGEST_VALUE).contains(&set.len());
        let mut said = SetCookie { identity: whole.then(|| Identity::cookie(name, set)), max_age: None, expires: None };
        for part in parts {
            let at = part.iter().position(|&b| b == b'=').unwrap_or(part.len());
            let (key, value) = (part[..at].trim_ascii(), part.get(at + 1..).unwrap_or_default().trim_ascii());
            // Of several the last counts, as with browsers.
            if key.eq_ignore_ascii_case(b"max-age") {
                said.max_age = seconds(value).or(said.max_age);
            } else if key.eq_ignore_ascii_case(b"expires") {
                said.expires = date(value).or(said.expires);
            }
        }
        Some(said)
    }

    /// For how long. `date`: when the server says it is, if it does: by that alone a date at which it ends becomes a length.
    pub fn life(&self, date: Option<i64>) -> Life {
        if self.identity.is_none() {
            return Life::Over;
        }
        let left = match (self.max_age, self.expires) {
            (Some(seconds), _) => seconds,
            (None, None) => return Life::Session,
            (None, Some(end)) if end < LONG_AGO => return Life::Over,
            (None, Some(end)) => match date {
                Some(date) => end.saturating_sub(date),
                None => return Life::Session,
            },
        };
        match u64::try_from(left) {
            Ok(0) | Err(_) => Life::Over,
            Ok(seconds) => Life::Seconds(seconds),
        }
    }
}

packed!(SetCookie { identity, max_age, expires });

/// `Max-Age`: digits, perhaps behind a minus; anything else is ignored (RFC 6265 section 5.2.2).
fn seconds(value: &[u8]) -> Option<i64> {
    let (sign, digits) = match value {
        [b'-', digits @ ..] => (-1, digits),
        digits => (1, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let fold = |n: i64, digit: &u8| n.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    Some(sign * digits.iter().fold(0, fold))
}

/// A date, in seconds since 1970, as browsers read it (RFC 6265 section 5.1.1): the parts in any order, two digits of a year for one between 1970 and 2069.
pub(super) fn date(text: &[u8]) -> Option<i64> {
    const MONTHS: [&[u8]; 12] =
        [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    let delimits = |b: &u8| !(b.is_ascii_alphanumeric() || *b == b':' || *b >= 0x7f);
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(delimits).filter(|token| !token.is_empty()) {
        let number = |most: usize| {
            let n = token.iter().take_while(|b| b.is_ascii_digit()).count();
            let digits = (1..=most).contains(&n).then(|| &token[..n])?;
            Some(digits.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
        };
        if time.is_none()
            && let Some(is) = clock(token)
        {
            time = Some(is);
        } else if day.is_none()
            && let Some(is) = number(2)
        {
            day = Some(is);
        } else if month.is_none()
            && let Some(is) = token.get(..3).and_then(|t| MONTHS.iter().position(|m| t.eq_ignore_ascii_case(m)))
        {
            month = Some(is as i64 + 1);
        } else if year.is_none()
            && let Some(is) = number(4)
        {
            year = Some(match is {
                0..=69 => is + 2000,
                70..=99 => is + 1900,
                _ => is,
            });
        }
    }
    let (time, day, month, year) = (time?, day?, month?, year?);
    ((1..=31).contains(&day) && year >= 1601).then(|| days(year, month, day) * 86_400 + time)
}

/// `hh:mm:ss`, in seconds.
fn clock(token: &[u8]) -> Option<i64> {
    let mut parts = token.split(|&b| b == b':');
    let mut part = |most: i64, last: bool| {
        let part = parts.next()?;
        let n = part.iter().take_while(|b| b.is_ascii_digit()).count();
        let value = part[..n].iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
        ((1..=2).contains(&n) && (last || n == part.len()) && value <= most).then_some(value)
    };
    let (hour, minute, second) = (part(23, false)?, part(59, false)?, part(60, true)?);
    Some(hour * 3600 + minute * 60 + second)
}

/// Days from the first of January 1970 to this day of the Gregorian calendar. The year begins in March, so that its last day is the one that is not in every year (as in Howard
/// Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (y.div_euclid(400), y.rem_euclid(400));
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * m + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<SetCookie> {
        SetCookie::read(value.as_bytes(), b"SID")
    }

    fn life(value: &str, now: Option<&str>) -> Life {
        read(value).unwrap().life(now.map(|now| date(now.as_bytes()).unwrap()))
    }

    const NOW: Option<&str> = Some("Tue, 28 Jul 2026 10:00:00 GMT");

    #[test]
    fn the_value_is_what_clients_send_back() {
        let is = |value: &str| Some(Identity::cookie(b"SID", value.as_bytes()));
        assert_eq!(read("SID=abc; Path=/; HttpOnly").unwrap().identity, is("abc"));
        assert_eq!(read("SID=\"abc\";Path=/").unwrap().identity, is("abc"));
        assert_eq!(read("SID = a=b").unwrap().identity, is("a=b"));
        assert_eq!(read("SID=; Path=/").unwrap().identity, None);
        for other in ["sid=abc", "SIDX=abc", "X=y; SID=abc", "SID", "", ";"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_cookie_lives_as_long_as_its_header_says() {
        assert_eq!(life("SID=a", NOW), Life::Session);
        assert_eq!(life("SID=a; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", NOW), Life::Seconds(60));
        assert_eq!(life("SID=a; expires=Tue, 28-Jul-2026 10:00:09 GMT", NOW), Life::Seconds(9));
        assert_eq!(life("SID=a; max-age=9999999999999999999999", NOW), Life::Seconds(i64::MAX as u64));
        assert_eq!(life("SID=a; max-age=x; max-age=5 ; max-age", NOW), Life::Seconds(5));
        // Nobody here knows what time it is, where the server does not say.
        assert_eq!(life("SID=a; expires=Tue, 28 Jul 2026 10:00:09 GMT", None), Life::Session);
    }

    /// As PHP, Tomcat, Jetty and Django write it.
    #[test]
    fn a_cookie_that_is_to_be_forgotten_is_over_whatever_its_value() {
        for (gone, now) in [
            ("SID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=0; path=/", NOW),
            ("SID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT", None),
            ("SID=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:10 GMT; Path=/", NOW),
            ("SID=\"\"; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/", None),
            ("SID=a; Max-Age=-1", None),
            ("SID=a; Expires=Tue, 28 Jul 2026 10:00:00 GMT", NOW),
            ("SID=", None),
        ] {
            assert_eq!(life(gone, now), Life::Over, "{gone}");
        }
    }

    /// Against `date -d` of GNU coreutils.
    #[test]
    fn dates_in_all_their_forms_are_the_same_moment() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "06 November 1994 08:49:37",
        ] {
            assert_eq!(date(text.as_bytes()), Some(784_111_777), "{text}");
        }
        assert_eq!(date(b"Thu, 29 Feb 2024 23:59:60 GMT"), Some(1_709_251_200));
        assert_eq!(date(b"Wed, 01 Jan 2020 00:00:00 GMT"), Some(LONG_AGO));
        assert_eq!(date(b"Fri, 31 Dec 9999 23:59:59 GMT"), Some(253_402_300_799));
        assert_eq!(date(b"Mon, 01 Jan 1601 00:00:00 GMT"), Some(-11_644_473_600));
        for none in
            ["", "0", "-1", "06 Nov 1994", "32 Nov 1994 08:49:37", "06 Nov 1994 24:00:00", "6 Nvo 1994 08:49:37"]
        {
            assert_eq!(date(none.as_bytes()), None, "{none}");
        }
    }
}
