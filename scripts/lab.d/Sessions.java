import java.io.IOException;
import java.net.InetSocketAddress;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import javax.servlet.http.HttpSession;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.handler.AbstractHandler;
import org.eclipse.jetty.server.session.SessionHandler;

/**
 * A web server of the Java world that keeps its sessions in memory: Jetty. Its page says which server it is, and how often this session was seen, `new` or
 * `known`. /login gives the session another name, as applications do; /logout ends it. Arguments: address, port, name of the cookie, name of the server.
 */
public class Sessions extends AbstractHandler {
    private final String name;

    Sessions(String name) {
        this.name = name;
    }

    @Override
    public void handle(String target, Request base, HttpServletRequest request, HttpServletResponse response) throws IOException {
        base.setHandled(true);
        HttpSession session = request.getSession(false);
        boolean known = session != null;
        if (!known) {
            session = request.getSession(true);
        }
        Integer before = (Integer) session.getAttribute("visits");
        int visits = 1 + (before == null ? 0 : before);
        session.setAttribute("visits", visits);
        if (target.equals("/login")) {
            request.changeSessionId();
        } else if (target.equals("/logout")) {
            session.invalidate();
            response.addHeader("Set-Cookie", base.getSessionHandler().getSessionCookieConfig().getName() + "=; Path=/; Max-Age=0");
        }
        response.setContentType("text/plain");
        response.getWriter().println(name + " jetty " + (known ? "known " : "new ") + visits);
    }

    public static void main(String[] args) throws Exception {
        Server server = new Server(new InetSocketAddress(args[0], Integer.parseInt(args[1])));
        SessionHandler sessions = new SessionHandler();
        sessions.getSessionCookieConfig().setName(args[2]);
        sessions.setHandler(new Sessions(args[3]));
        server.setHandler(sessions);
        server.start();
        server.join();
    }
}
