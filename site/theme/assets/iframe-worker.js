// The search runs in a worker, which browsers do not allow pages from a disk: there its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((done) => {
        frame.onload = () => {
          const inner = frame.contentWindow;
          inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          inner.importScripts = (...urls) =>
            Promise.all(urls.map((src) => new Promise((loaded, failed) => {
              const script = inner.document.createElement("script");
              Object.assign(script, { src, onload: loaded, onerror: failed });
              inner.document.head.append(script);
            })));
          inner.importScripts(url).then(() => done(inner));
        };
      });
      frame.srcdoc = "<!doctype html><head></head>";
      document.body.append(frame);
      this.frame = frame;
    }

    postMessage(data) {
      this.ready.then((inner) => inner.dispatchEvent(new inner.MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
