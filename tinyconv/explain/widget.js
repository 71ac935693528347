// The page as an anywidget: what is done in the page goes to Python, what Python sets comes here. Needs page.js.

const SYNCED = ["input", "weight", "bias", "g"];

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "tinyconv";
  el.append(root);
  const send = (page) => {
    model.set({ view: page.view, index: page.index });
    for (const name of SYNCED) {
      const values = page.trace.values[name];
      if (values) model.set(name, values.map(encode));
    }
    model.save_changes();
  };
  const page = explain(root, model.get("data"), send);
  const take = () => {
    for (const name of SYNCED) page.take(name, model.get(name));
    page.show(model.get("view"), model.get("index"));
  };
  take(); // a second view of the widget, or one after edits
  model.on("change", take);
  return () => {
    page.stop();
    model.off("change", take);
  };
}

export default { render };
