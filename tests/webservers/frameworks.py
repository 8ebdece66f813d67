"""The same small site in four frameworks, each in its own words, and hgweb.

    frameworks.py WORKERS SOCKET OWNER WAY NAME

`/hello` greets whom the query or a form names, `/upload` says what it got, `/moved` redirects there, `/download` sends a
file, `/fail` fails, and nothing else is there.
"""

import hashlib
import os
import sys

from fcgi_procmanager import ProcManager, WSGIServer, adopt

DOWNLOAD = "download.bin"
SIZE = 200_000


def said(body):
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


def flask():
    import flask

    app = flask.Flask("site")

    @app.route("/hello", methods=["GET", "POST"])
    def hello():
        return "hello " + flask.request.values["name"]

    @app.post("/upload")
    def upload():
        return said(flask.request.get_data())

    @app.get("/moved")
    def moved():
        return flask.redirect("/hello?name=again", 303)

    @app.get("/download")
    def download():
        return flask.send_file(os.path.abspath(DOWNLOAD))

    @app.get("/fail")
    def fail():
        raise RuntimeError("on purpose")

    return app


def django():
    import django
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import FileResponse, HttpResponse, HttpResponseRedirect
    from django.urls import path

    def hello(request):
        return HttpResponse("hello " + (request.POST.get("name") or request.GET["name"]))

    def upload(request):
        return HttpResponse(said(request.body))

    def moved(request):
        response = HttpResponseRedirect("/hello?name=again")
        response.status_code = 303
        return response

    def download(request):
        return FileResponse(open(DOWNLOAD, "rb"))

    def fail(request):
        raise RuntimeError("on purpose")

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=type(
            "urls", (), {"urlpatterns": [path(f.__name__, f) for f in (hello, upload, moved, download, fail)]}
        ),
        SECRET_KEY="not secret",
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    )
    django.setup()
    return WSGIHandler()


def bottle():
    import bottle

    app = bottle.Bottle()
    bottle.BaseRequest.MEMFILE_MAX = 1 << 20

    @app.route("/hello", method=["GET", "POST"])
    def hello():
        return "hello " + bottle.request.params["name"]

    @app.post("/upload")
    def upload():
        return said(bottle.request.body.read())

    @app.get("/moved")
    def moved():
        bottle.redirect("/hello?name=again", 303)

    @app.get("/download")
    def download():
        return bottle.static_file(DOWNLOAD, root=".")

    @app.get("/fail")
    def fail():
        raise RuntimeError("on purpose")

    return app


def webpy():
    import web

    class Hello:
        def GET(self):
            return "hello " + web.input().name

        POST = GET

    class Upload:
        def POST(self):
            return said(web.data())

    class Moved:
        def GET(self):
            raise web.seeother("/hello?name=again")

    class Download:
        def GET(self):
            with open(DOWNLOAD, "rb") as file:
                while piece := file.read(8192):
                    yield piece

    class Fail:
        def GET(self):
            raise RuntimeError("on purpose")

    urls = ("/hello", Hello, "/upload", Upload, "/moved", Moved, "/download", Download, "/fail", Fail)
    return web.application(urls, globals()).wsgifunc()


def hgweb():
    from mercurial.hgweb import hgweb

    return hgweb(b"repository")


def serve(application, way, manager):
    if way == "adopt":
        from flup.server.fcgi_single import WSGIServer as Single

        adopt(Single(application), manager).run()
    WSGIServer(application, manager=manager, threads=4 if way == "threads" else 1).run()


if __name__ == "__main__":
    workers, socket, owner, way, name = sys.argv[1:]
    manager = ProcManager(int(workers), die_timeout=100)
    manager.listen(socket, owner=owner or None)
    serve({"flask": flask, "django": django, "bottle": bottle, "web.py": webpy, "hgweb": hgweb}[name](), way, manager)
