//! The date and time that a template may ask for, in Coordinated Universal Time.
//!
//! transformers gives templates the machine's local time. Here it is UTC unless a caller says otherwise: results then
//! do not depend on where the program runs, and no time-zone database is needed.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A point in time: seconds since 1970-01-01 00:00:00, leap seconds not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Seconds; negative before 1970. For local time, add the zone's offset.
    pub seconds: i64,
    /// Microseconds beyond them, below 1,000,000.
    pub microseconds: u32,
}

/// A date and time of day.
struct Parts {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// 0 is Sunday.
    weekday: usize,
    /// 1 to 366.
    day_of_year: i64,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                microseconds: since.subsec_micros(),
            },
            Err(_) => Self {
                seconds: 0,
                microseconds: 0,
            },
        }
    }

    /// Days since 1970-01-01 become a date of the proleptic Gregorian calendar: years are counted from 1 March, so that
    /// the leap day is a year's last, within eras of 400 years = 146,097 days.
    fn parts(self) -> Parts {
        // A thousand centuries either way; beyond, dates have no meaning and sums would overflow.
        let seconds = self.seconds.clamp(-3_155_760_000_000, 3_155_760_000_000);
        let days = seconds.div_euclid(86_400);
        let time = seconds.rem_euclid(86_400);
        let from_march = days + 719_468;
        let era = from_march.div_euclid(146_097);
        let day_of_era = from_march.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_march_year + 2) / 153;
        let day = day_of_march_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
        let day_of_year = if month > 2 {
            day_of_march_year + 60 + leap
        } else {
            day_of_march_year - 305
        };
        Parts {
            year,
            month: month as usize,
            day,
            hour: time / 3_600,
            minute: time / 60 % 60,
            second: time % 60,
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year,
        }
    }

    /// The moment written by the codes of C's `strftime` in the C locale, as Python's `datetime.strftime` does for a
    /// time without a zone. Codes that are not known stay as they are.
    pub fn format(self, format: &str) -> String {
        let parts = self.parts();
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            match characters.next() {
                None => text.push('%'),
                Some('-') => match characters.next() {
                    None => text.push_str("%-"),
                    Some(code) => {
                        let mut padded = String::new();
                        self.code(&parts, code, &mut padded);
                        let trimmed = padded.trim_start_matches(['0', ' ']);
                        text.push_str(if trimmed.is_empty() { "0" } else { trimmed });
                    }
                },
                Some(code) => self.code(&parts, code, &mut text),
            }
        }
        text
    }

    fn code(self, parts: &Parts, code: char, text: &mut String) {
        let name = |names: &[&'static str], at: usize| names.get(at).copied().unwrap_or_default();
        let weekday = name(&DAYS, parts.weekday);
        let month = name(&MONTHS, parts.month.saturating_sub(1));
        let twelve = (parts.hour + 11) % 12 + 1;
        let half = if parts.hour < 12 { "AM" } else { "PM" };
        let Parts {
            year,
            day,
            hour,
            minute,
            second,
            ..
        } = *parts;
        // Writing to a string does not fail.
        let _ = match code {
            'Y' => write!(text, "{year}"),
            'y' => write!(text, "{:02}", year.rem_euclid(100)),
            'C' => write!(text, "{:02}", year.div_euclid(100)),
            'm' => write!(text, "{:02}", parts.month),
            'd' => write!(text, "{day:02}"),
            'e' => write!(text, "{day:2}"),
            'H' => write!(text, "{hour:02}"),
            'I' => write!(text, "{twelve:02}"),
            'M' => write!(text, "{minute:02}"),
            'S' => write!(text, "{second:02}"),
            'f' => write!(text, "{:06}", self.microseconds),
            'p' => write!(text, "{half}"),
            'A' => write!(text, "{weekday}"),
            'a' => write!(text, "{}", &weekday[..3]),
            'B' => write!(text, "{month}"),
            'b' | 'h' => write!(text, "{}", &month[..3]),
            'j' => write!(text, "{:03}", parts.day_of_year),
            'u' => write!(text, "{}", (parts.weekday + 6) % 7 + 1),
            'w' => write!(text, "{}", parts.weekday),
            'U' => write!(text, "{:02}", (parts.day_of_year + 6 - parts.weekday as i64) / 7),
            'W' => write!(
                text,
                "{:02}",
                (parts.day_of_year + 6 - (parts.weekday as i64 + 6) % 7) / 7
            ),
            'F' => write!(text, "{year}-{:02}-{day:02}", parts.month),
            'D' | 'x' => write!(text, "{:02}/{day:02}/{:02}", parts.month, year.rem_euclid(100)),
            'T' | 'X' => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            'R' => write!(text, "{hour:02}:{minute:02}"),
            'r' => write!(text, "{twelve:02}:{minute:02}:{second:02} {half}"),
            'c' => write!(
                text,
                "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}",
                &weekday[..3],
                &month[..3]
            ),
            's' => write!(text, "{}", self.seconds),
            'n' => writeln!(text),
            't' => write!(text, "\t"),
            '%' => write!(text, "%"),
            // A time without a zone has neither name nor offset.
            'Z' | 'z' => Ok(()),
            other => write!(text, "%{other}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Moment {
        Moment {
            seconds,
            microseconds: 42,
        }
    }

    // Expected texts: Python 3.11, datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None).strftime(format).
    #[test]
    fn dates_are_written_as_python_does() {
        let all = "%Y-%m-%d %H:%M:%S %y %b %B %a %A %j %p %I %e %-d %-m %u %w %U %W|%c|%D|%F %T %R|%Z%z|%%|%f";
        assert_eq!(
            at(1_795_464_000).format(all),
            "2026-11-23 20:00:00 26 Nov November Mon Monday 327 PM 08 23 23 11 1 1 47 47|Mon Nov 23 20:00:00 2026|\
             11/23/26|2026-11-23 20:00:00 20:00||%|000042"
        );
        assert_eq!(
            at(951_782_400).format(all),
            "2000-02-29 00:00:00 00 Feb February Tue Tuesday 060 AM 12 29 29 2 2 2 09 09|Tue Feb 29 00:00:00 2000|\
             02/29/00|2000-02-29 00:00:00 00:00||%|000042"
        );
        assert_eq!(at(-1).format("%Y-%m-%d %H:%M:%S %j"), "1969-12-31 23:59:59 365");
        assert_eq!(at(4_107_542_400).format("%d %b %Y"), "01 Mar 2100");
        assert_eq!(at(0).format("%-H %Q 100%"), "0 %Q 100%");
    }

    #[test]
    fn every_day_of_eight_centuries_follows_its_predecessor() {
        let mut before = at(-200 * 365 * 86_400).parts();
        for day in (-200 * 365 + 1)..(600 * 365) {
            let after = at(day * 86_400).parts();
            let leap = before.year % 4 == 0 && (before.year % 100 != 0 || before.year % 400 == 0);
            let length = match before.month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = if before.day < length {
                (before.year, before.month, before.day + 1, before.day_of_year + 1)
            } else if before.month < 12 {
                (before.year, before.month + 1, 1, before.day_of_year + 1)
            } else {
                (before.year + 1, 1, 1, 1)
            };
            assert_eq!((after.year, after.month, after.day, after.day_of_year), expected);
            assert_eq!(after.weekday, (before.weekday + 1) % 7);
            before = after;
        }
    }

    proptest! {
        #[test]
        fn any_format_at_any_time_is_written(seconds: i64, format in ".{0,20}|(%[a-zA-Z%-]){0,9}") {
            at(seconds).format(&format);
        }
    }
}
