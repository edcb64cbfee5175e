//! The alarms as `infra/` defines them: the locals of its files, evaluated for a set of variables.

use std::collections::BTreeMap;

use hcl::{
    Body, Value,
    eval::{Context, Evaluate, FuncArgs, FuncDef, ParamType},
    expr::Expression,
    value::Map,
};

use super::super::{between, read};

/// A metric of an alarm, by the id that its expression uses.
#[derive(Clone, Debug)]
pub struct Query {
    pub id: String,
    pub series: String,
    pub statistic: String,
}

#[derive(Clone, Debug)]
pub struct Alarm {
    pub queries: Vec<Query>,
    /// What stands for a missing number: `FILL(query, number)`.
    pub fill: Option<f64>,
    /// Another expression over the queries; `None` for the one query itself.
    pub expression: Option<Expression>,
    /// In seconds.
    pub period: i64,
    pub evaluations: usize,
    pub datapoints: usize,
    pub comparison: String,
    pub threshold: f64,
    pub missing_breaches: bool,
    pub notifies: bool,
}

#[derive(Clone, Debug)]
pub struct Suppressor {
    pub alarm: String,
    pub wait: i64,
    pub extension: i64,
}

#[derive(Clone, Debug)]
pub struct Composite {
    /// The alarms of its rule. It is on while one of them is on.
    pub any_of: Vec<String>,
    /// `NOT (...)`, or `TRUE`: it is on while none of them is on.
    pub is_negated: bool,
    pub notifies: bool,
    pub suppressor: Option<Suppressor>,
}

/// All alarms of a deployment, by their names without the deployment's.
#[derive(Debug)]
pub struct Alarms {
    pub metric: BTreeMap<String, Alarm>,
    pub composite: BTreeMap<String, Composite>,
}

/// The name of a series: namespace, metric and dimensions.
pub fn series(namespace: &str, metric: &str, dimensions: &BTreeMap<String, String>) -> String {
    format!("{namespace} {metric} {dimensions:?}")
}

/// The alarms of the module.
pub fn of_module(variables: &Map<String, Value>) -> Alarms {
    let mut variables = variables.clone();
    for (name, value) in defaults("infra/variables.tf") {
        variables.entry(name).or_insert(value);
    }
    let text = read("infra/variables.tf");
    let thresholds = between(between(&text, "variable \"alarm_thresholds\" {", "default"), "object({", "})");
    let nulls = thresholds.lines().filter_map(|line| Some((line.split_once('=')?.0.trim().to_owned(), Value::Null)));
    let nulls: Map<String, Value> = nulls.collect();
    let Some(Value::Object(given)) = variables.insert("alarm_thresholds".to_owned(), Value::Null) else { panic!() };
    variables.insert("alarm_thresholds".to_owned(), Value::Object(nulls.into_iter().chain(given).collect()));
    let name = variables["name"].as_str().unwrap().to_owned();
    let known = object([
        ("function_names", object([("refresh", Value::from(format!("{name}-refresh")))])),
        ("region", Value::from("eu-central-1")),
    ]);
    let resources =
        [("aws_sqs_queue", object([("failures", object([("name", Value::from(format!("{name}-failures")))]))]))];
    let locals = locals(&["infra/alarms.tf", "infra/schedule.tf"], &variables, known, &resources);
    let single: Vec<&str> = array(&locals["single_alarms"]).iter().map(|key| key.as_str().unwrap()).collect();
    let metric =
        map(&locals["alarms"]).iter().map(|(key, value)| (key.clone(), alarm(value, single.contains(&key.as_str()))));
    let metric: BTreeMap<String, Alarm> = metric.collect();
    let prefix = format!("{name}-");
    let composite = |(key, value): (&String, &Value)| {
        let suppressor = value_of(value, "suppressor").map(|alarm| Suppressor {
            alarm: alarm.as_str().unwrap().to_owned(),
            wait: number(value, "wait") as i64,
            extension: number(value, "extension") as i64,
        });
        let notifies = value_of(value, "notifies").is_none_or(|notifies| notifies.as_bool().unwrap());
        let rule = text_of(value, "rule");
        let negated = match rule {
            "TRUE" => Some("FALSE"),
            rule => rule.strip_prefix("NOT (").and_then(|rest| rest.strip_suffix(')')),
        };
        let any_of: Vec<String> = negated
            .unwrap_or(rule)
            .split(" OR ")
            .filter(|part| *part != "FALSE")
            .map(|part| {
                let key = part.strip_prefix("ALARM(\"").and_then(|rest| rest.strip_suffix("\")")).expect(part);
                key.strip_prefix(&prefix).expect(key).to_owned()
            })
            .collect();
        assert!(
            any_of.iter().all(|key| metric.contains_key(key)),
            "{key} names an alarm that does not exist: {any_of:?}"
        );
        (key.clone(), Composite { any_of, is_negated: negated.is_some(), notifies, suppressor })
    };
    let composites = map(&locals["composite_alarms"]).iter().chain(map(&locals["suppressed_alarms"]));
    let schedule_off = ("schedule-off".to_owned(), locals["schedule_off"].clone());
    let composites = composites.chain([(&schedule_off.0, &schedule_off.1)]);
    Alarms { composite: composites.map(composite).collect(), metric }
}

/// The alarms that the complete example adds for its servers.
pub fn of_complete_example(variables: &Map<String, Value>) -> BTreeMap<String, Alarm> {
    let files = ["infra/examples/complete/alarms.tf"];
    let mut variables = variables.clone();
    for file in ["alarms.tf", "variables.tf", "module_variables.tf"] {
        for (name, value) in defaults(&format!("infra/examples/complete/{file}")) {
            variables.entry(name).or_insert(value);
        }
    }
    let name = variables["name"].clone();
    let resources = [
        ("aws_db_instance", object([("this", object([("identifier", name)]))])),
        ("aws_elasticache_replication_group", object([("this", object([("num_cache_clusters", Value::from(1))]))])),
    ];
    let locals = locals(&files, &variables, Value::Object(Map::new()), &resources);
    map(&locals["server_alarms"]).iter().map(|(key, value)| (key.clone(), alarm(value, true))).collect()
}

fn alarm(value: &Value, notifies: bool) -> Alarm {
    let query = |id: &str, value: &Value| {
        let dimensions = map(value_of(value, "dimensions").unwrap()).iter();
        let dimensions = dimensions.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
        Query {
            id: id.to_owned(),
            series: series(text_of(value, "namespace"), text_of(value, "metric"), &dimensions),
            statistic: text_of(value, "statistic").to_owned(),
        }
    };
    let queries = match value_of(value, "metrics") {
        Some(metrics) => map(metrics).iter().map(|(id, metric)| query(id, metric)).collect(),
        None => vec![query("value", value)],
    };
    let expression = value_of(value, "expression").map(|text| text.as_str().unwrap());
    let fill = expression.and_then(|text| {
        let (id, number) = text.strip_prefix("FILL(")?.strip_suffix(')')?.split_once(", ")?;
        assert_eq!((id, queries.len()), (queries[0].id.as_str(), 1), "{text}");
        Some(number.parse().unwrap())
    });
    let evaluations = number(value, "evaluations") as usize;
    let alarm = Alarm {
        queries,
        fill,
        expression: expression.filter(|_| fill.is_none()).map(|text| text.parse().unwrap()),
        period: number(value, "period") as i64,
        evaluations,
        datapoints: value_of(value, "datapoints").map_or(evaluations, |_| number(value, "datapoints") as usize),
        comparison: text_of(value, "comparison").to_owned(),
        threshold: number(value, "threshold"),
        missing_breaches: value_of(value, "missing").and_then(Value::as_str) == Some("breaching"),
        notifies,
    };
    // CloudWatch's limits.
    let span = alarm.period * i64::try_from(alarm.evaluations).unwrap();
    assert!(alarm.period > 0 && alarm.period % 60 == 0 && alarm.period <= 86_400, "{alarm:?}");
    assert!(span <= if alarm.period >= 3600 { 7 * 86_400 } else { 86_400 }, "{alarm:?}");
    assert!((1..=alarm.evaluations).contains(&alarm.datapoints), "{alarm:?}");
    alarm
}

/// The defaults of the variables of a file.
fn defaults(file: &str) -> Vec<(String, Value)> {
    let body: Body = hcl::from_str(&read(file)).unwrap();
    let default = |block: &hcl::Block| {
        let attribute = block.body().attributes().find(|attribute| attribute.key() == "default")?;
        Some((block.labels()[0].as_str().to_owned(), attribute.expr().evaluate(&Context::new()).unwrap()))
    };
    body.blocks().filter(|block| block.identifier() == "variable").filter_map(default).collect()
}

/// The locals that can be evaluated with what is known. A local that needs another one waits for it.
fn locals(
    files: &[&str],
    variables: &Map<String, Value>,
    known: Value,
    resources: &[(&str, Value)],
) -> Map<String, Value> {
    let bodies =
        files.iter().map(|file| hcl::from_str::<Body>(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}")));
    let mut waiting: Vec<(String, Expression)> = Vec::new();
    for body in bodies {
        for block in body.blocks().filter(|block| block.identifier() == "locals") {
            waiting.extend(block.body().attributes().map(|one| (one.key().to_owned(), one.expr().clone())));
        }
    }
    let Value::Object(mut done) = known else { panic!() };
    let mut context = Context::new();
    functions(&mut context);
    context.declare_var("var", variables.clone());
    for (kind, resource) in resources {
        context.declare_var(*kind, resource.clone());
    }
    loop {
        let before = waiting.len();
        context.declare_var("local", done.clone());
        let mut errors = Vec::new();
        waiting.retain(|(name, expression)| match expression.evaluate(&context) {
            Ok(value) => {
                done.insert(name.clone(), value);
                false
            }
            Err(error) => {
                errors.push(format!("{name}: {error}"));
                true
            }
        });
        if waiting.len() == before {
            let needed =
                ["alarms", "server_alarms", "composite_alarms", "suppressed_alarms", "schedule_off", "single_alarms"];
            assert!(waiting.iter().all(|(name, _)| !needed.contains(&name.as_str())), "{errors:#?}");
            return done;
        }
    }
}

/// The built-in functions that the files use.
fn functions(context: &mut Context<'_>) {
    let mut declare = |name: &str, function: fn(FuncArgs) -> Result<Value, String>| {
        context.declare_func(name, FuncDef::builder().variadic_param(ParamType::Any).build(function));
    };
    declare("max", |arguments| Ok(whole(numbers(&arguments.into_values()).fold(f64::MIN, f64::max).into())));
    declare("min", |arguments| Ok(whole(numbers(&arguments.into_values()).fold(f64::MAX, f64::min).into())));
    declare("sum", |arguments| Ok(whole(numbers(array(&arguments[0])).sum::<f64>().into())));
    declare("ceil", |arguments| Ok(whole(arguments[0].as_f64().ok_or("not a number")?.ceil().into())));
    declare("floor", |arguments| Ok(whole(arguments[0].as_f64().ok_or("not a number")?.floor().into())));
    declare("tonumber", |arguments| {
        let text = arguments[0].as_str().ok_or("not a text")?;
        text.parse::<i64>().map(Value::from).map_err(|error| error.to_string())
    });
    declare("length", |arguments| {
        Ok(Value::from(arguments[0].as_array().map_or_else(|| map(&arguments[0]).len(), Vec::len)))
    });
    declare("keys", |arguments| Ok(map(&arguments[0]).keys().map(|key| Value::from(key.as_str())).collect()));
    declare("values", |arguments| Ok(map(&arguments[0]).values().cloned().collect()));
    declare("contains", |arguments| Ok(array(&arguments[0]).contains(&arguments[1]).into()));
    declare("concat", |arguments| Ok(arguments.into_values().iter().flat_map(|list| array(list).clone()).collect()));
    declare("merge", |arguments| {
        let all = arguments.into_values();
        Ok(Value::Object(all.iter().flat_map(|one| map(one).clone()).collect()))
    });
    declare("coalesce", |arguments| {
        arguments.into_values().into_iter().find(|value| !value.is_null()).ok_or_else(|| "all are null".to_owned())
    });
    declare("join", |arguments| {
        let parts: Vec<&str> = array(&arguments[1]).iter().map(|part| part.as_str().unwrap()).collect();
        Ok(parts.join(arguments[0].as_str().unwrap()).into())
    });
    declare("tomap", |arguments| Ok(arguments[0].clone()));
    // Inputs of schedules; no alarm depends on them.
    declare("jsonencode", |_| Ok("{}".into()));
    declare("range", |arguments| {
        let ends: Vec<i64> = arguments.into_values().iter().map(|end| end.as_i64().unwrap()).collect();
        Ok((ends[0]..ends[1]).map(Value::from).collect())
    });
    declare("format", |arguments| {
        assert_eq!(arguments[0].as_str(), Some("%s-%03d"), "another format");
        Ok(format!("{}-{:03}", arguments[1].as_str().unwrap(), arguments[2].as_i64().unwrap()).into())
    });
    declare("regexall", |arguments| {
        let pattern = "^rate\\(([0-9]+) (minute|hour|day)s?\\)$";
        assert_eq!(arguments[0].as_str(), Some(pattern), "another pattern");
        let text = arguments[1].as_str().unwrap();
        let Some(rate) = text.strip_prefix("rate(").and_then(|rest| rest.strip_suffix(')')) else {
            return Ok(Value::Array(Vec::new()));
        };
        let (count, unit) = rate.split_once(' ').unwrap();
        Ok(vec![vec![Value::from(count), Value::from(unit.trim_end_matches('s'))].into_iter().collect::<Value>()]
            .into_iter()
            .collect())
    });
}

fn whole(value: Value) -> Value {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => Value::from(number as i64),
        _ => value,
    }
}

fn numbers(values: &[Value]) -> impl Iterator<Item = f64> {
    values.iter().map(|value| value.as_f64().expect("a number"))
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn array(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value:?}"))
}

fn map(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("not a map: {value:?}"))
}

fn value_of<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    map(value).get(name).filter(|value| !value.is_null())
}

fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value_of(value, name).and_then(Value::as_str).unwrap_or_else(|| panic!("{name} in {value:?}"))
}

fn number(value: &Value, name: &str) -> f64 {
    value_of(value, name).and_then(Value::as_f64).unwrap_or_else(|| panic!("{name} in {value:?}"))
}
