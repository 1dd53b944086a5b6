"""The report's page as a Jinja template: one file, nothing loaded from outside, readable in light and dark."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1d2129; --ink-soft: #5b6472; --rule: #e3e6ea; --accent: #ff7a1a;
  --good: #16895a; --bad: #d03a3f; --tint: #f0f2f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1d2026; --ink: #eceef2; --ink-soft: #9aa4b2; --rule: #30353d; --accent: #ff9142;
    --good: #4cc38a; --bad: #ff7b7f; --tint: #262a31;
    --bev-ground: #1b1e23; --bev-road: #343a43; --bev-walkway: #2a2a27; --bev-line: #5c6572; --bev-route: #2c4666;
    --bev-crosswalk: #77808d; --bev-red: #ff5c61; --bev-ink: #f0f2f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 6px; letter-spacing: -.02em; }
h2 { font-size: 1.3rem; margin: 44px 0 12px; letter-spacing: -.01em; }
p { margin: 0 0 12px; max-width: 72ch; }
.soft { color: var(--ink-soft); font-size: .92rem; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 14px 0 22px; padding: 0; list-style: none; }
.chips li { background: var(--tint); border-radius: 99px; padding: 2px 11px; font-size: .82rem; }
.chips b { font-weight: 500; color: var(--ink-soft); margin-right: 4px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(46%, 200px), 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 16px 18px; }
.figure { font-size: 2.2rem; font-weight: 650; line-height: 1.1; letter-spacing: -.03em; }
.figure.good { color: var(--good); } .figure.bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: 7px 9px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--ink-soft); font-size: .82rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
tr:last-child td { border-bottom: 0; }
td small { color: var(--ink-soft); }
td.lost { color: var(--bad); font-weight: 600; }
td.lifted { text-decoration: underline dotted; text-underline-offset: 3px; }
abbr { text-decoration: none; cursor: help; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 14px; }
.chart { display: block; width: 100%; max-width: 620px; height: auto; }
.scene { margin: 0 0 18px; padding: 0; overflow: hidden; }
.scene > header { padding: 12px 18px; display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: baseline; }
.scene code { font-size: .86rem; }
.views { display: grid; grid-template-columns: 1fr; gap: 4px; background: var(--rule); }
@media (min-width: 820px) { .views { grid-template-columns: minmax(0, 1fr) 39%; } }
.cameras { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; align-content: start; }
.cameras img { display: block; width: 100%; height: auto; }
.cameras img:first-child { grid-column: 1 / -1; }
.bev { display: block; width: 100%; height: auto; max-height: 640px; background: var(--bev-ground, #eef0f2); }
.scene .scroll, .words { padding: 6px 18px 12px; }
.words q { font-style: italic; }
.legend-row { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: .86rem; }
.missing { padding: 18px; color: var(--ink-soft); background: var(--card); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; }
.beside { margin-top: 14px; }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--ink-soft); }
details td { white-space: normal; word-break: break-word; text-align: left; }
</style>
</head>
<body>
{% macro named(name, colour) %}<span class="dot" style="background:{{ colour }}"></span>{{ name }}{% endmacro %}
<main>
<header>
<h1>{{ title }}</h1>
<p class="soft">{{ scene_count }} scenes from {{ log_count }} logs{% if failures %}; {{ failures|length }} left out\
{% endif %}. All scores are × 100.</p>
<ul class="chips">
{% for key, value in stamps %}
<li><b>{{ key }}</b>{{ value }}</li>
{% endfor %}
</ul>
</header>

<section class="cards">
{% for card in cards %}
<div class="card"><div class="figure {{ card.tone or '' }}">{{ card.value }}</div><div>{{ card.label }}</div>\
<div class="soft">{{ card.note }}</div></div>
{% endfor %}
</section>

<h2>Results</h2>
<div class="card scroll">
<table>
<thead><tr><th>policy</th><th>EPDMS</th>{% if two_stage %}<th>stage one</th><th>stage two</th>{% endif %}
{% if compared %}<th>against {{ reference }}</th>{% endif %}
{% for name, short in short_names.items() %}<th><abbr title="{{ long_names[name] }}">{{ short }}</abbr></th>{% endfor %}
{% if with_reward %}<th>predicted</th>{% endif %}{% if with_runs %}<th>runs</th>{% endif %}</tr></thead>
<tbody>
{% for row in rows %}
<tr><td>{{ named(row.policy, colours[row.policy]) }}</td>
<td><b>{{ row.epdms.estimate|points }}</b>{% if row.epdms.low is not none %} \
<small>[{{ row.epdms.low|points }}, {{ row.epdms.high|points }}]</small>{% endif %}</td>
{% for stage in row.stages or () %}<td>{{ stage|interval }}</td>{% endfor %}
{% if compared %}<td>{{ row.difference|interval(signed=True) if row.difference else "–" }}</td>{% endif %}
{% for name in short_names %}<td>{{ row|sub_score(name) }}</td>{% endfor %}
{% if with_reward %}<td>{{ row.predicted_reward|points }}</td>{% endif %}
{% if with_runs %}<td>{{ row.runs }}</td>{% endif %}</tr>
{% endfor %}
</tbody>
</table>
</div>
<div class="charts beside">
<div class="card">{{ overview|safe }}</div>
<div class="card soft"><p>In brackets and as bars: 95 % intervals from redrawing whole logs{% if with_runs %} and
training runs{% endif %} (paired bootstrap).</p>
<dl>{% for name, short in short_names.items() %}<dt>{{ short }}</dt><dd>{{ long_names[name] }}</dd>{% endfor %}
{% if with_reward %}<dt>predicted</dt><dd>what the reward world model expects</dd>{% endif %}</dl></div>
</div>

{% if training %}
<h2>Training</h2>
<div class="charts">
{% for chart in training %}
<div class="card">{{ chart.svg|safe }}<div class="soft">{{ chart.note }}</div></div>
{% endfor %}
</div>
{% endif %}

{% if reward_check and reward_check.lines %}
<h2>What the reward world model knows</h2>
<div class="card scroll"><table>
<thead><tr><th>plans</th><th>number</th><th>rank correlation</th><th>best-of-N regret</th><th>mean error</th>
{% for short in reward_check.judged %}<th>{{ short }} AUC</th>{% endfor %}</tr></thead>
<tbody>
{% for line in reward_check.lines %}
<tr><td>{{ line.plans }}</td><td>{{ line.count }}</td><td>{{ line.rank }}</td><td>{{ line.regret }}</td>
<td>{{ line.error }}</td>{% for area in line.areas %}<td>{{ area }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="soft" style="margin-top:10px">On {{ reward_check.scenes }} scenes of logs it was never trained on. Rank
correlation is taken within a scene; regret is what the best-looking plan lacks to the best one.</p>
{% endif %}

{% if hacking %}
<h2>Is the reward being hacked?</h2>
<p>A policy trained against a learned reward may come to please it without driving better. So the predicted reward
stands beside the true score: it should rise with it, stay close to it, and rank scenes alike.</p>
<div class="charts">
{% if hacking.table %}
<div class="card scroll"><table>
<thead><tr><th>policy</th><th>predicted</th><th>true</th><th>gap</th><th>rank correlation</th></tr></thead>
<tbody>
{% for line in hacking.table %}
<tr><td>{{ named(line.policy, line.colour) }}</td><td>{{ line.predicted }}</td>\
<td>{{ line.true }}</td><td>{{ line.gap }}</td><td>{{ line.rank }}</td></tr>
{% endfor %}
</tbody></table><div class="soft">Rank correlation over scenes, one plan each.</div></div>
{% endif %}
{% for svg in hacking.charts %}
<div class="card">{{ svg|safe }}</div>
{% endfor %}
{% if hacking.sub_scores %}
<div class="card scroll"><table>
<thead><tr><th>on PPO's watched scenes, first → last</th><th>true</th><th>predicted</th></tr></thead>
<tbody>
{% for line in hacking.sub_scores %}
<tr><td>{{ line.name }}</td><td class="{{ line.fell }}">{{ line.true }}</td><td>{{ line.predicted }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
</div>
{% endif %}

{% for group in groups %}
<h2>{{ group.title }}</h2>
{% for scene in group.cards %}
<article class="card scene">
<header><b>{{ scene.city }}</b><span class="soft">{{ scene.speed }}</span>
<span class="soft"><code>{{ scene.token }}</code> {{ scene.log }}</span>
<span class="legend-row">{% for entry in scene.legend %}<span>{{ named(entry.label, entry.colour) }}</span>\
{% endfor %}</span></header>
<div class="views">
{% if scene.pictures %}
<div class="cameras">{% for picture in scene.pictures %}<img alt="{{ picture.name }}" src="{{ picture.data }}">\
{% endfor %}</div>
{% else %}
<div class="missing">{{ scene.missing }}</div>
{% endif %}
{{ scene.bev|safe }}
</div>
{% if scene.answer %}
<div class="words"><span class="soft">{{ scene.question }}</span><br><q>{{ scene.answer }}</q></div>
{% endif %}
<div class="scroll"><table>
<thead><tr><th>policy</th><th>EPDMS</th>{% for name, short in short_names.items() %}<th><abbr \
title="{{ long_names[name] }}">{{ short }}</abbr></th>{% endfor %}</tr></thead>
<tbody>
{% for line in scene.table %}
<tr><td>{{ named(line.policy, line.colour) }}</td><td><b>{{ line.score }}</b></td>
{% for cell in line.cells %}<td class="{{ 'lost' if cell.lost }} {{ 'lifted' if cell.lifted }}">{{ cell.text }}</td>\
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</article>
{% endfor %}
{% endfor %}

{% if failures %}
<h2>Scenes left out</h2>
<p>They count for no policy.</p>
<div class="card scroll"><table><thead><tr><th>scene</th><th>at</th><th style="text-align:left">reason</th></tr></thead>
<tbody>{% for failure in failures[:50] %}<tr><td><code>{{ failure.token }}</code></td><td>{{ failure.stage }}</td>\
<td style="text-align:left;white-space:normal">{{ failure.reason }}</td></tr>{% endfor %}</tbody></table></div>
{% endif %}

<h2>How this was measured</h2>
<p class="soft">EPDMS is NAVSIM v2's extended driving score: the product of the four gates (NC, DAC, DDC, TLC) times
the weighted mean of EP, TTC, LK, HC and, where the plan made 0.5 s earlier is known, EC. What the human driver failed
too is not held against a plan; underlined figures were lifted that way.{% if two_stage %} In two stages a plan's score
is multiplied with the mean score in the scenes that follow, which count the more the nearer they start to where the
plan ends; sub-scores are given for both stages. Traffic reacts to the plan. Figures of single scenes are those of their
own stage.{% endif %}</p>
<details><summary>All stamps</summary><div class="scroll"><table>
{% for key, value in all_stamps %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>{% endfor %}
</table></div></details>
</main>
</body>
</html>
"""
