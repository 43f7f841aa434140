"use strict";

function make(tag, text) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  return element;
}

// A schema as a short sketch: {"model": {...}, "predictions": [...]}.
function sketch(schema, all, depth = 0) {
  if (schema.$ref) return sketch(all[schema.$ref.split("/").pop()] ?? {}, all, depth);
  if (schema.anyOf) return sketch(schema.anyOf[0], all, depth);
  if (depth > 4) return "…";
  if (schema.type === "array") return [sketch(schema.items ?? {}, all, depth + 1)];
  if (schema.properties) {
    const entries = Object.entries(schema.properties);
    return Object.fromEntries(entries.map(([name, value]) => [name, sketch(value, all, depth + 1)]));
  }
  return [schema.type ?? "any", schema.format ?? schema.contentMediaType, schema.description].filter(Boolean).join(", ");
}

function route(method, path, about, all) {
  const section = make("section");
  section.append(make("h2", `${method.toUpperCase()} ${path}`), make("p", about.summary));
  for (const parameter of about.parameters ?? []) {
    section.append(make("p", `?${parameter.name}: ${sketch(parameter.schema, all)}`));
  }
  for (const [kind, { schema }] of Object.entries(about.requestBody?.content ?? {})) {
    section.append(make("p", `Takes ${kind}:`), make("pre", JSON.stringify(sketch(schema, all), null, 2)));
  }
  for (const [status, answer] of Object.entries(about.responses)) {
    const schema = answer.content?.["application/json"]?.schema;
    if (status === "200" && schema && Object.keys(schema).length) {
      section.append(make("p", "200:"), make("pre", JSON.stringify(sketch(schema, all), null, 2)));
    } else {
      section.append(make("p", `${status}: ${answer.description ?? ""}`));
    }
  }
  return section;
}

fetch("/openapi.json").then((answer) => answer.json()).then((api) => {
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, about] of Object.entries(methods)) {
      document.getElementById("routes").append(route(method, path, about, api.components?.schemas ?? {}));
    }
  }
});
