//! CloudWatch as far as alarms need it: series of numbers, and the state of every alarm minute by minute.
//!
//! An alarm looks at windows that slide by the minute. A number may be there later than its time: Lambda gives those of an invocation
//! the time of its start. Where numbers are missing, older ones take their place, as far as two periods further back; only what is
//! missing then is treated as the alarm says.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use hcl::{
    Value,
    eval::{Context, Evaluate, FuncDef, ParamType},
    expr::Expression,
};

use super::definitions::{Alarm, Alarms, Query, series};

// The time from a number to its place in a graph.
const DELAY: i64 = 60;

// No number comes later than this: the longest invocation, and the delay.
const SETTLED: i64 = 15 * 60;

/// What an expression is computed from, with its first series.
type Inputs = (String, Vec<Option<u64>>);

#[derive(Debug, Default)]
pub struct CloudWatch {
    /// The series that an alarm looks at. Others are not kept.
    watched: BTreeSet<String>,
    /// The time from which a number can be seen, its own time, and the number.
    numbers: BTreeMap<String, Vec<(i64, i64, f64)>>,
    /// The numbers that can be seen by now, by the minute of their time.
    minutes: BTreeMap<String, BTreeMap<i64, Minute>>,
    results: RefCell<BTreeMap<Inputs, Option<f64>>>,
    /// By alarm and the beginning of a period: the numbers that cannot change any more.
    settled: RefCell<BTreeMap<String, BTreeMap<i64, Option<f64>>>>,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    count: f64,
    sum: f64,
    least: f64,
    most: f64,
}

impl Minute {
    const EMPTY: Self = Self { count: 0.0, sum: 0.0, least: f64::MAX, most: f64::MIN };

    const fn one(number: f64) -> Self {
        Self { count: 1.0, sum: number, least: number, most: number }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }
}

/// The alarms that went off, and the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    pub alarms: BTreeSet<String>,
    /// The times of messages that something is wrong, with the alarm.
    pub messages: Vec<(i64, String)>,
}

impl CloudWatch {
    pub fn of(alarms: &Alarms) -> Self {
        let queries = alarms.metric.values().flat_map(|alarm| &alarm.queries);
        Self { watched: queries.map(|query| query.series.clone()).collect(), ..Self::default() }
    }

    pub fn put(&mut self, series: &str, at: i64, seen: i64, number: f64) {
        if let Some(series) = self.watched.get(series) {
            self.numbers.entry(series.clone()).or_default().push((seen + DELAY, at, number));
        }
    }

    /// Takes the numbers of a line.
    pub fn take(&mut self, numbers: &[(String, f64)], at: i64) {
        for (series, number) in numbers {
            self.put(series, at, at, *number);
        }
    }

    fn statistic(&self, series: &str, statistic: &str, from: i64, to: i64) -> Option<f64> {
        let inside = self.minutes.get(series)?.range(from / 60..to / 60);
        let all = inside.fold(Minute::EMPTY, |all, (_, minute)| all.and(*minute));
        (all.count > 0.0).then(|| match statistic {
            "Sum" => all.sum,
            "Maximum" => all.most,
            "Minimum" => all.least,
            "SampleCount" => all.count,
            other => panic!("{other} is not modelled"),
        })
    }

    /// Shows the numbers that can be seen at this time.
    fn show(&mut self, now: i64) {
        for (series, numbers) in &mut self.numbers {
            let minutes = self.minutes.entry(series.clone()).or_default();
            while let Some((_, at, number)) = numbers.pop_if(|(seen, ..)| *seen <= now) {
                let minute = minutes.entry(at.div_euclid(60)).or_insert(Minute::EMPTY);
                *minute = minute.and(Minute::one(number));
            }
        }
    }

    /// The number of an alarm in one of its periods. Alarms look at the same period again and again.
    fn number(&self, name: &str, alarm: &Alarm, from: i64, now: i64) -> Option<f64> {
        if now < from + alarm.period + SETTLED {
            return self.number_now(alarm, from);
        }
        let mut settled = self.settled.borrow_mut();
        if !settled.contains_key(name) {
            settled.insert(name.to_owned(), BTreeMap::new());
        }
        let numbers = settled.get_mut(name).expect("it was just inserted");
        *numbers.entry(from).or_insert_with(|| self.number_now(alarm, from))
    }

    fn number_now(&self, alarm: &Alarm, from: i64) -> Option<f64> {
        let of = |query: &Query| self.statistic(&query.series, &query.statistic, from, from + alarm.period);
        let Some(expression) = &alarm.expression else { return of(&alarm.queries[0]).or(alarm.fill) };
        let inputs: Vec<Option<f64>> = alarm.queries.iter().map(of).collect();
        // The same few inputs come again and again.
        let key = (alarm.queries[0].series.clone(), inputs.iter().map(|input| input.map(f64::to_bits)).collect());
        *self.results.borrow_mut().entry(key).or_insert_with(|| result(alarm, expression, &inputs))
    }

    fn is_on(&self, name: &str, alarm: &Alarm, now: i64) -> bool {
        // The newest come first.
        let periods = 1..=i64::try_from(alarm.evaluations).unwrap() + 2;
        let all: Vec<Option<f64>> =
            periods.map(|back| self.number(name, alarm, now - back * alarm.period, now)).collect();
        let breaches = |number: f64| match alarm.comparison.as_str() {
            "GreaterThanThreshold" => number > alarm.threshold,
            "GreaterThanOrEqualToThreshold" => number >= alarm.threshold,
            "LessThanThreshold" => number < alarm.threshold,
            other => panic!("{other} is not modelled"),
        };
        let real: Vec<bool> = all.into_iter().flatten().take(alarm.evaluations).map(breaches).collect();
        let filled = std::iter::repeat_n(alarm.missing_breaches, alarm.evaluations - real.len());
        real.iter().copied().chain(filled).filter(|breaches| *breaches).count() >= alarm.datapoints
    }

    /// Evaluates all alarms at these times: those before the time 0, and those from then on.
    pub fn watch(&mut self, before_and_after: &[Alarms; 2], times: impl Iterator<Item = i64>) -> Fired {
        for numbers in self.numbers.values_mut() {
            numbers.sort_by_key(|(seen, ..)| std::cmp::Reverse(*seen));
        }
        let mut fired = Fired::default();
        let mut on: BTreeMap<&str, bool> = BTreeMap::new();
        let mut actions: BTreeMap<&str, Actions> = BTreeMap::new();
        for now in times {
            let alarms = &before_and_after[usize::from(now >= 0)];
            self.show(now);
            let mut states: BTreeMap<&str, bool> =
                alarms.metric.iter().map(|(name, alarm)| (name.as_str(), self.is_on(name, alarm, now))).collect();
            for (name, composite) in &alarms.composite {
                let state = composite.any_of.iter().any(|member| states[member.as_str()]) != composite.is_negated;
                states.insert(name, state);
            }
            for (name, state) in &states {
                if *state && !on.get(name).copied().unwrap_or_default() {
                    fired.alarms.insert((*name).to_owned());
                }
            }
            for (name, alarm) in &alarms.metric {
                if alarm.notifies && states[name.as_str()] && !on.get(name.as_str()).copied().unwrap_or_default() {
                    fired.messages.push((now, name.clone()));
                }
            }
            for (name, composite) in alarms.composite.iter().filter(|(_, composite)| composite.notifies) {
                let suppressor = composite.suppressor.as_ref();
                let suppressed = suppressor.is_some_and(|suppressor| states[suppressor.alarm.as_str()]);
                let (wait, extension) = suppressor.map_or((0, 0), |suppressor| (suppressor.wait, suppressor.extension));
                let actions = actions.entry(name).or_default();
                if actions.step(states[name.as_str()], suppressed, now, wait, extension) {
                    fired.messages.push((now, name.clone()));
                }
            }
            on = states;
        }
        fired
    }
}

/// The actions of a composite alarm: they wait for its suppressor, and until some time after it.
#[derive(Debug, Default)]
struct Actions {
    on_since: Option<i64>,
    last_suppressed: Option<i64>,
    are_done: bool,
}

impl Actions {
    /// True when the alarm sends its message now.
    fn step(&mut self, is_on: bool, is_suppressed: bool, now: i64, wait: i64, extension: i64) -> bool {
        if is_suppressed {
            self.last_suppressed = Some(now);
        }
        if !is_on {
            (self.on_since, self.are_done) = (None, false);
            return false;
        }
        let since = *self.on_since.get_or_insert(now);
        let is_extended = self.last_suppressed.is_some_and(|last| now < last + extension.max(1));
        let due = !self.are_done && !is_suppressed && !is_extended && now >= since + wait;
        self.are_done |= due;
        due
    }
}

/// The series and numbers of a line in the embedded metric format, as CloudWatch reads it: by what its `_aws` declares.
pub fn numbers_of(line: &str) -> Vec<(String, f64)> {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(line["_aws"]["Timestamp"].is_i64(), "{line}");
    let mut numbers = Vec::new();
    for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
        for dimensions in directive["Dimensions"].as_array().unwrap() {
            let names = dimensions.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            let dimensions = names.map(|name| (name.to_owned(), line[name].as_str().unwrap().to_owned())).collect();
            for metric in directive["Metrics"].as_array().unwrap() {
                let name = metric["Name"].as_str().unwrap();
                let series = series(directive["Namespace"].as_str().unwrap(), name, &dimensions);
                numbers.push((series, line[name].as_f64().unwrap()));
            }
        }
    }
    numbers
}

/// The result of an expression of metrics. Without a number a comparison fails, and there is none.
fn result(alarm: &Alarm, expression: &Expression, inputs: &[Option<f64>]) -> Option<f64> {
    let mut context = Context::new();
    let choose = FuncDef::builder()
        .variadic_param(ParamType::Any)
        .build(|arguments| Ok(arguments[usize::from(arguments[0].as_bool() != Some(true)) + 1].clone()));
    context.declare_func("IF", choose);
    for (query, input) in alarm.queries.iter().zip(inputs) {
        context.declare_var(query.id.as_str(), input.map_or(Value::Null, Value::from));
    }
    expression.evaluate(&context).ok()?.as_f64()
}
